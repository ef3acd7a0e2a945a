import { z } from "zod";
import type { EventData } from "../audit/event.ts";
import type { CredentialId } from "../ids.ts";
import type { GatewayRecord } from "../protocol/gateway.ts";
import type { RunFate } from "../protocol/sandboxd.ts";

const count = z.int().min(0).default(0);
const spent = z.strictObject({
  requests: count,
  input_tokens: count,
  output_tokens: count,
  cache_read_tokens: count,
  cache_write_tokens: count,
  /** Billionths of a dollar. */
  usd_nano: count,
});

const reached = z.strictObject({ connections: count, bytes: count });
const pushedRef = z.strictObject({
  repository: z.string(),
  ref: z.string(),
  old: z.string(),
  new: z.string(),
  /** The server's word; null when it was not heard. */
  accepted: z.boolean().nullable(),
});

/** What a run has used, as its row keeps it. */
export const runUsage = z.strictObject({
  llm: spent.extend({ by_model: z.record(z.string(), spent).default({}) }).prefault({}),
  git: z.strictObject({ fetches: count, pushes: count, refs: z.array(pushedRef).default([]) }).prefault({}),
  egress: reached.extend({ by_host: z.record(z.string(), reached).default({}) }).prefault({}),
  peak_memory_bytes: z.int().nullable().default(null),
  cpu_ms: z.int().nullable().default(null),
  /** At its end the gateway had told of all: one that was away then tells later. */
  complete: z.boolean().default(false),
});
export type RunUsage = z.infer<typeof runUsage>;

/** What it was refused: one a lane and reason, with when it was first. */
export const runDenials = z.array(
  z.strictObject({
    at: z.int(),
    kind: z.enum(["llm", "git", "egress", "network"]),
    reason: z.string(),
    count: z.int().min(1),
  }),
);
export type RunDenials = z.infer<typeof runDenials>;

export interface Account {
  readonly usage: RunUsage;
  readonly denials: RunDenials;
}

/** Different models, hosts, and kinds of denials, that are told apart, and refs that are kept: the run names them. */
const MOST = 100;
const OTHERS = "others";

/** What an account comes to with one more record of the gateway's. */
export function withRecord({ usage, denials }: Account, record: GatewayRecord): Account {
  switch (record.kind) {
    case "llm": {
      const model = keyIn(usage.llm.by_model, record.model.slice(0, 200));
      const of_model = ownIn(usage.llm.by_model, model) ?? spent.parse({});
      const by_model = { ...usage.llm.by_model, [model]: plus(of_model, record) };
      return { usage: { ...usage, llm: { ...plus(usage.llm, record), by_model } }, denials };
    }
    case "git": {
      const { fetches, pushes, refs } = usage.git;
      if (record.action === "fetch")
        return { usage: { ...usage, git: { ...usage.git, fetches: fetches + 1 } }, denials };
      const pushed = record.refs.map((one) => ({ repository: record.repository, ...one }));
      const git = { fetches, pushes: pushes + 1, refs: [...refs, ...pushed].slice(0, MOST) };
      return { usage: { ...usage, git }, denials };
    }
    case "egress": {
      const { by_host, ...all } = usage.egress;
      const more = { connections: record.connections, bytes: record.bytes_sent + record.bytes_received };
      const host = keyIn(by_host, `${record.host}:${record.port}`.slice(0, 300));
      const of_host = both(ownIn(by_host, host) ?? reached.parse({}), more);
      const egress = { ...both(all, more), by_host: { ...by_host, [host]: of_host } };
      return { usage: { ...usage, egress }, denials };
    }
    case "denied":
      return { usage, denials: withDenial(denials, record) };
    default:
      return record satisfies never;
  }
}

/** Under which name it counts: its own, unless there are too many. */
function keyIn(known: Readonly<Record<string, unknown>>, name: string): string {
  return Object.hasOwn(known, name) || Object.keys(known).length < MOST ? name : OTHERS;
}

const ownIn = <T>(known: Readonly<Record<string, T>>, name: string): T | undefined =>
  Object.hasOwn(known, name) ? known[name] : undefined;

type Reached = z.infer<typeof reached>;

function both(a: Reached, b: Reached): Reached {
  return { connections: a.connections + b.connections, bytes: a.bytes + b.bytes };
}

function plus(before: z.infer<typeof spent>, record: Extract<GatewayRecord, { kind: "llm" }>) {
  return {
    requests: before.requests + 1,
    input_tokens: sum(before.input_tokens, record.input_tokens),
    output_tokens: sum(before.output_tokens, record.output_tokens),
    cache_read_tokens: sum(before.cache_read_tokens, record.cache_read_tokens),
    cache_write_tokens: sum(before.cache_write_tokens, record.cache_write_tokens),
    usd_nano: sum(before.usd_nano, record.usd_nano),
  };
}

/** As far as a whole number goes: providers say how much they took, and a row that can't be read would hold up all runs. */
function sum(one: number, other: number): number {
  return Math.min(one + other, Number.MAX_SAFE_INTEGER);
}

function withDenial(
  denials: RunDenials,
  {
    at,
    lane,
    reason,
    count,
  }: { at: number; lane: RunDenials[number]["kind"]; reason: string; count: number },
): RunDenials {
  const same = denials.findIndex((one) => one.kind === lane && one.reason === reason);
  const known = denials[same];
  if (known !== undefined) return denials.with(same, { ...known, count: known.count + count });
  return denials.length >= MOST ? denials : [...denials, { at, kind: lane, reason, count }];
}

/** With what its network's filter dropped, which is known when a run's sandbox is gone. */
export function withDropped(denials: RunDenials, { dropped = [], ended_at }: RunFate): RunDenials {
  return dropped.reduce(
    (all, { reason, packets }) => withDenial(all, { at: ended_at, lane: "network", reason, count: packets }),
    denials,
  );
}

/** A request was refused because the money, tokens or requests that it had were spent. */
export function isBudgetSpent(denials: RunDenials): boolean {
  return denials.some(({ kind, reason }) => kind === "llm" && reason === "budget");
}

/** What the audit log says of a record. */
export function eventOf(record: GatewayRecord): { type: string; data: EventData } {
  const { run, seq: _, at: __, kind, ...data } = record;
  return { type: `run.${kind}`, data: { run_id: run, ...data } };
}

export function credentialOf(record: GatewayRecord): CredentialId | null {
  return "credential" in record ? record.credential : null;
}

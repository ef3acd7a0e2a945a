import { createHash } from "node:crypto";
import { z } from "zod";
import type { Head } from "../audit/chain.ts";
import type { Origin } from "../audit/event.ts";
import { runMake } from "../protocol/sandboxd.ts";
import { buildInfo } from "../version.ts";
import { canonicalize } from "./canonical.ts";
import type { ReceiptFacts } from "./receipt.ts";
import { accountOf, grantsOf, limitsOf, timingsOf, type Run } from "./run.ts";
import { baseOf, hashOf } from "./worktree/base.ts";

const chainHead = z.strictObject({ seq: z.int(), hash: z.string() });
/** Who asked for a run, and where its workspace's events were then. */
const runOrigin = z.strictObject({ local_user: z.string().nullable(), audit: chainHead.nullable() });
const runResult = z.object({ hash: z.string(), changes: z.int() });

type ChainHead = z.infer<typeof chainHead>;

export function originOf({ localUser }: Origin, head: Head | null): z.infer<typeof runOrigin> {
  return { local_user: localUser, audit: shortHead(head) };
}

const shortHead = (head: Head | null): ChainHead | null =>
  head === null ? null : { seq: head.seq, hash: head.hash };

/** What a run's row says by its end, as its receipt has it. `head`: of its workspace's events, now. */
export function factsOf(run: Run, head: Head | null): ReceiptFacts {
  const { usage, denials } = accountOf(run);
  const origin = runOrigin.nullable().parse(run.origin);
  const base = baseOf(run);
  const result = runResult.nullable().parse(run.result);
  const { finishedAt } = run;
  if (finishedAt === null) throw new Error(`${run.id} is not over`);
  return {
    run_id: run.id,
    workspace_id: run.workspaceId,
    namespace: run.namespace,
    label: run.label,
    asked_by: { key_id: run.keyId, local_user: origin?.local_user ?? null },
    request_sha256: createHash("sha256").update(canonicalize(run.request)).digest("hex"),
    status: run.status,
    exit_code: run.exitCode,
    error: run.error,
    created_at: time(run.createdAt),
    started_at: run.startedAt === null ? null : time(run.startedAt),
    finished_at: time(finishedAt),
    timings: timingsOf(run),
    peak_memory_bytes: usage.peak_memory_bytes,
    cpu_ms: usage.cpu_ms,
    sandbox: runMake.nullable().parse(run.madeOf),
    cofferdam: buildInfo.version,
    policy: grantsOf(run),
    limits: limitsOf(run),
    worktree: {
      from: base?.from ?? null,
      base: base === null ? null : hashOf(base),
      result: result?.hash ?? null,
      changes: result?.changes ?? null,
    },
    llm: Object.entries(usage.llm.by_model).map(([model, spent]) => ({ model, ...spent })),
    git: usage.git,
    egress: Object.entries(usage.egress.by_host).map(([host, reached]) => ({ host, ...reached })),
    usage_complete: usage.complete,
    denials: denials.map(({ at, ...rest }) => ({ at: time(at), ...rest })),
    audit: { before: origin?.audit ?? null, after: shortHead(head) },
  };
}

const time = (ms: number): string => new Date(ms).toISOString();

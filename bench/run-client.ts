import { existsSync, readFileSync } from "node:fs";
import { runId, type RunId } from "../src/ids.ts";
import { openInstance } from "../src/instance/instance.ts";
import { networkNames } from "../src/sandboxd/network/names.ts";
import { runNames } from "../src/sandboxd/run/names.ts";
import type { Appliance } from "../test/fixtures/appliance.ts";

export interface Shown {
  readonly run_id: string;
  readonly status: string;
  readonly error: string | null;
  readonly timings: Readonly<Record<string, number>>;
}

export interface Seen {
  readonly id: RunId;
  /** When it was asked for, and when it had its first output; `last` is when it had its last so far. */
  readonly asked: number;
  readonly first: number;
  readonly last: () => number;
  /** When the stream of its output ended, which is when its row said that it was over. */
  readonly over: Promise<number>;
  /** Follows it no more; one key may follow 64 at a time. */
  readonly leave: () => void;
}

/** One that goes on for as long as the appliance, and does nothing. */
export async function startIdle(appliance: Appliance): Promise<void> {
  (await startRun(appliance, "echo up; exec sleep 1000000")).leave();
}

/** Starts a run and follows its output; resolves with the first of that. */
export async function startRun(appliance: Appliance, command: string, body: object = EMPTY): Promise<Seen> {
  const asked = performance.now();
  const answer = await appliance.call("/v1/runs", { json: { command, ...body } });
  const text = await answer.text();
  if (answer.status !== 201) throw new Error(`${answer.status} ${text}`);
  const id = runId.schema.parse((JSON.parse(text) as Shown).run_id);
  const leaving = new AbortController();
  const logs = await appliance.call(`/v1/runs/${id}/logs?follow=true`, { signal: leaving.signal });
  const began = Promise.withResolvers<number>();
  const state = { last: 0 };
  const follow = async () => {
    const decoder = new TextDecoder();
    for await (const piece of logs.body ?? []) {
      if (!decoder.decode(piece).includes("event: stdout")) continue;
      state.last = performance.now();
      began.resolve(state.last);
    }
    if (state.last === 0)
      began.reject(new Error(`${id} said nothing: ${await (await get(appliance, id)).text()}`));
    return performance.now();
  };
  const over = follow();
  over.catch(() => {});
  return {
    id,
    asked,
    first: await began.promise,
    last: () => state.last,
    over,
    leave: () => leaving.abort(),
  };
}

const EMPTY = { worktree: { from: "empty" } };

const get = async (appliance: Appliance, id: RunId) => appliance.call(`/v1/runs/${id}`);

/** A run that is over, as it has to have gone. */
export async function ended(appliance: Appliance, id: RunId): Promise<Shown> {
  const run = (await (await get(appliance, id)).json()) as Shown;
  if (run.status !== "succeeded") throw new Error(`${id}: ${run.status}: ${run.error}`);
  return run;
}

/** When the host shows nothing of it any more, looking each millisecond. */
export async function whenGone({ data }: Appliance, id: RunId): Promise<number> {
  const instance = openInstance(data);
  const { directory, exit, work, cgroup } = runNames(instance, id);
  const { netnsPath, veth } = networkNames(instance.inst, id);
  const paths = [directory, exit, work, netnsPath, ...cgroupsOf(cgroup)];
  const left = () => [
    ...paths.filter((path) => existsSync(path)),
    ...(readFileSync("/proc/net/dev", "utf8").includes(`${veth}:`) ? [veth] : []),
  ];
  for (const deadline = performance.now() + 30_000; left().length > 0; await Bun.sleep(1))
    if (performance.now() > deadline) throw new Error(`${id} has left ${left().join(" ")}`);
  return performance.now();
}

/** Where a group is, of version 2 or of each controller. */
export function cgroupsOf(path: string): string[] {
  return ["", "memory/", "pids/", "cpu/"].map((controller) => `/sys/fs/cgroup/${controller}${path}`);
}

interface State {
  readonly live: number;
  readonly waiting: number;
  readonly spare: number;
}

/** Until so many live and so many sandboxes wait, and a moment more. */
export async function quiet(appliance: Appliance, wanted: Pick<State, "live" | "spare">): Promise<void> {
  for (let tries = 0; tries < 1200; tries++) {
    const { live, spare } = await runsOf(appliance);
    if (live === wanted.live && spare >= wanted.spare) return Bun.sleep(100);
    await Bun.sleep(25);
  }
  throw new Error(`not ${wanted.live} runs and ${wanted.spare} spare sandboxes in 30 s`);
}

export async function runsOf({ data }: Appliance): Promise<State> {
  const unix = openInstance(data).sockets.admin;
  const answer = await fetch("http://localhost/admin/status", { unix });
  return ((await answer.json()) as { runs: State }).runs;
}

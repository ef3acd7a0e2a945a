import { mkdtempSync, readFileSync, readdirSync } from "node:fs";
import { startAppliance, type Appliance } from "../test/fixtures/appliance.ts";
import { plainRuns } from "./plain-run.ts";
import { summary, type Summary } from "./stats.ts";

export interface RunFigures {
  readonly rows: Summary[];
  /** By how many idle runs live: the mean proportional share of each, and the time of one more. */
  readonly idle: readonly {
    readonly runs: number;
    readonly mib_each: number;
    readonly one_more_ms: number;
  }[];
}

interface Run {
  readonly run_id: string;
  readonly status: string;
  readonly finished_at: string | null;
  readonly timings: Readonly<Record<string, number>>;
}

const LIVE = 150;
/** A spare boots meanwhile. */
const PAUSE_MS = 700;
const POOL = 2;

const config = (pool: number) =>
  `[exec]\npool = 0\n[rate]\nper_key = "0"\n[runs]\npool = ${pool}\nlive = ${LIVE}\nper_workspace = ${LIVE}\n`;

async function start(appliance: Appliance, command: string): Promise<string> {
  const json = { command, worktree: { from: "empty" } };
  const answer = await appliance.call("/v1/runs", { json });
  if (answer.status !== 201) throw new Error(`${answer.status}: ${await answer.text()}`);
  return ((await answer.json()) as Run).run_id;
}

/** Its output from now on; resolves with the first of it. */
async function following(appliance: Appliance, id: string) {
  const path = `/v1/runs/${id}/logs?follow=true`;
  const { body } = await appliance.call(path, { headers: { accept: "text/plain" } });
  const reader = body?.getReader();
  if (reader === undefined || (await reader.read()).done) throw new Error(`${id} said nothing`);
  return reader;
}

async function ended(appliance: Appliance, id: string): Promise<Run> {
  for (;;) {
    const run = (await (await appliance.call(`/v1/runs/${id}`)).json()) as Run;
    if (run.finished_at !== null) return run;
    await Bun.sleep(1);
  }
}

/** From the request to the first byte of output, to the end of that, and to where the run is over, with the parts it says. */
async function one(appliance: Appliance, times: Map<string, number[]>, name: string): Promise<void> {
  const put = (what: string, ms: number): void => void times.set(what, [...(times.get(what) ?? []), ms]);
  const begun = performance.now();
  const id = await start(appliance, "echo hi");
  const reader = await following(appliance, id);
  const first = performance.now();
  put(`run: to its first output, ${name}`, first - begun);
  while (!(await reader.read()).done);
  const { timings } = await ended(appliance, id);
  put(`run: from that to where it is over, ${name}`, performance.now() - first);
  for (const part of ["files_ms", "sandbox_ms", "admit_ms", "finish_ms"])
    put(`run: ${part.replace("_ms", "")}, ${name}`, timings[part] ?? 0);
}

export async function runs(stage: string, rounds: number, levels: readonly number[]): Promise<RunFigures> {
  const work = mkdtempSync("/scratch/bench-runs-");
  const cold = await startAppliance({ config: config(0) });
  const spare = await startAppliance({ config: `${config(POOL)}subnet = "10.43.0.0/16"\n` });
  const plain = plainRuns(stage, work);
  const times = new Map<string, number[]>();
  const put = (what: string, ms: number): void => void times.set(what, [...(times.get(what) ?? []), ms]);
  for (let round = -2; round < rounds; round++) {
    if (round === 0) times.clear();
    await Bun.sleep(PAUSE_MS);
    await one(spare, times, "spare");
    // The next spare boots.
    await Bun.sleep(2 * PAUSE_MS);
    await one(cold, times, "booted");
    await Bun.sleep(PAUSE_MS);
    const begun = performance.now();
    const takeDown = await plain("echo hi; sleep 100");
    const up = performance.now();
    put("run: to its first output, by ip, iptables and runsc run", up - begun);
    await takeDown();
    put("run: taken down, by kill, runsc delete, iptables and ip", performance.now() - up);
  }
  await spare.stop();
  const idle: RunFigures["idle"][number][] = [];
  let living = 0;
  for (const level of levels) {
    for (; living < level; living++) {
      const id = await start(cold, "echo up; exec sleep 1000000");
      await (await following(cold, id)).cancel();
    }
    await Bun.sleep(2_000);
    const more = new Map<string, number[]>();
    for (let n = 0; n < 5; n++) await one(cold, more, "booted");
    idle.push({
      runs: level,
      mib_each: shareOf(cold.inst, level),
      one_more_ms: summary({ name: "", times: more.get("run: to its first output, booted") ?? [] }).p50_ms,
    });
  }
  await cold.stop();
  return { rows: [...times].map(([name, list]) => summary({ name, times: list })), idle };
}

/** All of a run's processes on the host: runsc, its gofer, its sandbox and what stands over them. */
function shareOf(inst: string, runs: number): number {
  let kib = 0;
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8");
      if (!argv.includes(`/run/cofferdam/${inst}/`) || !/run-[a-z2-7]{10}/.test(argv)) continue;
      kib += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1] ?? 0);
    } catch {
      // It ended while it was looked at.
    }
  }
  return Math.round((kib / 1024 / runs) * 10) / 10;
}

import { mkdtempSync } from "node:fs";
import { startAppliance, type Appliance } from "../test/fixtures/appliance.ts";
import { plainRuns } from "./plain-run.ts";
import { footprint, full, type Footprint, type Full } from "./run-crowd.ts";
import { ended, quiet, startIdle, startRun, whenGone } from "./run-client.ts";
import { summary, type Summary } from "./stats.ts";

export interface RunFigures {
  readonly rows: Summary[];
  /** By how many idle runs live: what each takes, and the time of one more. */
  readonly idle: readonly (Footprint & { readonly runs: number; readonly one_more_ms: number })[];
  /** With as many as may live. */
  readonly full: Full;
}

const POOL = 2;
/** Beside the idle ones, the one whose time is taken. */
const MORE = 1;
/** Idle ones that boot at once. */
const AT_ONCE = 4;
const PLAIN = "run: to its first output, by ip, iptables and runsc run";

const config = (pool: number, live: number) =>
  `[exec]\npool = 0\n[rate]\nper_key = "0"\n` +
  `[runs]\npool = ${pool}\nlive = ${live}\nper_workspace = ${live}\nqueue = 16\nprefix = 28\n`;

/** From the request to the first output, and from the last to where it is over and the host shows nothing of it. */
async function one(appliance: Appliance, put: Put, name: string): Promise<void> {
  const run = await startRun(appliance, "echo hi; sleep 0.2; echo bye");
  const over = await run.over;
  const gone = await whenGone(appliance, run.id);
  put(`run: to its first output, ${name}`, run.first - run.asked);
  put(`run: from its last output to where it is over, ${name}`, over - run.last());
  put(`run: from its last output to where nothing is left, ${name}`, gone - run.last());
  const { timings } = await ended(appliance, run.id);
  for (const part of ["queued", "files", "network", "boot", "admit", "finish"]) {
    const ms = timings[`${part}_ms`];
    if (ms !== undefined) put(`run: ${part}, ${name}`, ms);
  }
}

type Put = (what: string, ms: number) => void;

/**
 * Runs of an appliance that boots a sandbox for each, and of one that has some waiting, beside what a script would do; then
 * `levels` of them at once that do nothing.
 */
export async function runs(stage: string, rounds: number, levels: readonly number[]): Promise<RunFigures> {
  const work = mkdtempSync("/scratch/bench-runs-");
  const cold = await startAppliance({ config: config(0, (levels.at(-1) ?? 0) + MORE) });
  const spare = await startAppliance({ config: `${config(POOL, 8)}subnet = "10.43.0.0/16"\n` });
  const plain = plainRuns(stage, work);
  const times = new Map<string, number[]>();
  const put: Put = (what, ms) => void times.set(what, [...(times.get(what) ?? []), ms]);
  for (let round = -2; round < rounds; round++) {
    if (round === 0) times.clear();
    await quiet(spare, { live: 0, spare: POOL });
    await one(spare, put, "spare");
    // The next spare boots.
    await quiet(spare, { live: 0, spare: POOL });
    await quiet(cold, { live: 0, spare: 0 });
    await one(cold, put, "booted");
    await quiet(cold, { live: 0, spare: 0 });
    const begun = performance.now();
    const takeDown = await plain("echo hi; sleep 100");
    const up = performance.now();
    put(PLAIN, up - begun);
    await takeDown();
    put("run: taken down, by kill, runsc delete, iptables and ip", performance.now() - up);
  }
  await spare.stop();
  const idle: RunFigures["idle"][number][] = [];
  let living = 0;
  for (const level of levels) {
    const begin = async (): Promise<void> => {
      while (living++ < level) await startIdle(cold);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, begin));
    living = level;
    await Bun.sleep(2_000);
    const more: number[] = [];
    for (let n = 0; n < 5; n++) {
      await one(cold, (what, ms) => void (what.includes("first output") && more.push(ms)), "booted");
      await quiet(cold, { live: level, spare: 0 });
    }
    const one_more_ms = summary({ name: "", times: more }).p50_ms;
    idle.push({ runs: level, ...footprint(cold, level), one_more_ms });
  }
  const refused = await full(cold, MORE);
  await cold.stop();
  return {
    rows: [...times].map(([name, list]) => summary({ name, times: list })),
    idle,
    full: refused,
  };
}

/** `COFFERDAM_STAGE=dist/stage test/host/throwaway bun bench/runs.ts [ROUNDS [LEVEL..]]`: this part alone. */
if (import.meta.main) {
  const [rounds = 10, ...levels] = process.argv.slice(2).map(Number);
  const figures = await runs(process.env.COFFERDAM_STAGE ?? "dist/stage", rounds, levels);
  console.table(figures.rows);
  console.table(figures.idle);
  console.log(figures.full);
}

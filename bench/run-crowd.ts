import { readFileSync, readdirSync } from "node:fs";
import { openInstance } from "../src/instance/instance.ts";
import { cgroupParent } from "../src/sandboxd/names.ts";
import { runIdOf } from "../src/sandboxd/run/names.ts";
import type { Appliance } from "../test/fixtures/appliance.ts";
import { cgroupsOf, runsOf, startIdle } from "./run-client.ts";

export interface Footprint {
  /** The proportional share of all of a run's processes. */
  readonly mib_each: number;
  /** Of that, what is no page of a file: the rest is mostly of runsc and the image, and the same pages for all runs. */
  readonly own_mib_each: number;
  /** What the kernel counts for its cgroup; null where that is not to be read. */
  readonly cgroup_mib_each: number | null;
  /** What the three roles have, resident. */
  readonly roles_mib: number;
}

/** What so many runs take: runsc, its gofer, its sandbox with the processes of its tasks, and what stands over them. */
export function footprint(appliance: Appliance, runs: number): Footprint {
  const instance = openInstance(appliance.data);
  const groups = cgroupsOf(cgroupParent(instance)).flatMap((parent) =>
    // The gateway's is beside them.
    namesIn(parent)
      .filter((name) => runIdOf(name) !== undefined)
      .map((name) => `${parent}/${name}`),
  );
  const members = groups.flatMap((group) => (readIfThere(`${group}/cgroup.procs`) ?? "").split("\n"));
  const named = namesIn("/proc").filter((pid) =>
    /^\d+$/.test(pid)
      ? (readIfThere(`/proc/${pid}/cmdline`) ?? "").includes(`${instance.sandboxd.runs}/`)
      : false,
  );
  // 0 is a process that this PID namespace does not show.
  const pids = [...new Set([...members, ...named])].filter((pid) => Number(pid) > 0);
  const share = (...fields: readonly string[]) =>
    sum(pids.flatMap((pid) => fields.map((field) => fieldOf(`/proc/${pid}/smaps_rollup`, field))));
  const charged = groups.flatMap((group) => {
    const text = readIfThere(`${group}/memory.current`) ?? readIfThere(`${group}/memory.usage_in_bytes`);
    return text === undefined ? [] : [Number(text) / 1024];
  });
  const roles = (["serve", "api", "gateway"] as const).map((role) =>
    fieldOf(`/proc/${appliance.pid(role)}/status`, "VmRSS"),
  );
  return {
    mib_each: mib(share("Pss") / runs),
    own_mib_each: mib(share("Pss_Anon", "Pss_Shmem") / runs),
    cgroup_mib_each: charged.length === 0 ? null : mib(sum(charged) / charged.length),
    roles_mib: mib(sum(roles)),
  };
}

const sum = (numbers: readonly number[]) => numbers.reduce((all, one) => all + one, 0);
const mib = (kib: number) => Math.round((kib / 1024) * 10) / 10;

function fieldOf(file: string, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(readIfThere(file) ?? "")?.[1] ?? 0);
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}

export interface Full {
  readonly live: number;
  readonly waiting: number;
  /** Of the first that is too much. */
  readonly status: number;
  readonly retry_after: string | null;
  readonly detail: string;
  readonly refused_ms: number;
}

/** Fills the appliance up: `more` live, then as many wait as may, and the next is refused. */
export async function full(appliance: Appliance, more: number): Promise<Full> {
  for (let n = 0; n < more; n++) await startIdle(appliance);
  for (let tries = 0; tries < 1000; tries++) {
    const begun = performance.now();
    const json = { command: "true", worktree: { from: "empty" } };
    const answer = await appliance.call("/v1/runs", { json });
    const refused_ms = Math.round((performance.now() - begun) * 10) / 10;
    const { detail = "" } = (await answer.json()) as { detail?: string };
    if (answer.ok) continue;
    const { live, waiting } = await runsOf(appliance);
    const retry_after = answer.headers.get("retry-after");
    return { live, waiting, status: answer.status, retry_after, detail, refused_ms };
  }
  throw new Error("a thousand runs more than may live, and none was refused");
}

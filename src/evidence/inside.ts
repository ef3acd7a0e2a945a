import { z } from "zod";
import common from "../prove/probes/common.py" with { type: "text" };
import probe from "./inside.py" with { type: "text" };
import type { LiveRun } from "./run.ts";

const TIMEOUT_MS = 30_000;
const MAX_BYTES = 4 * 1024 * 1024;
/** Before the report. */
const MARK = "INSIDE ";
/** What the probe needs at most, several times over: it must not be what takes the run's memory. */
const ROOM_BYTES = 48 * 1024 * 1024;

const statuses = z.union([z.int(), z.string()]);
const report = z.object({
  command: z.object({
    pid: z.int(),
    environ: z.record(z.string(), z.string()),
    uid: z.string(),
    capabilities: z.array(z.string()),
    no_new_privs: z.string().nullable(),
    seccomp: z.string().nullable(),
  }),
  probe: z.record(z.string(), z.string().nullable()),
  mounts: z.array(z.string()),
  routes: z.array(z.string()),
  /** "done", or why not. */
  paths: z.record(z.string(), z.string()),
  through_root: z.record(z.string(), z.string()),
  own_paths: z.record(z.string(), z.string()),
  reached: z.record(z.string(), z.string()),
  answers: z.record(z.string(), statuses.nullable()),
});
/** What a probe saw from inside a run's sandbox. It holds the run's token: never to be shown as it is. */
export type Inside = z.infer<typeof report>;

export interface Asked {
  /** Of the host. */
  readonly paths: readonly string[];
  readonly reach: Readonly<Record<string, readonly [address: string, port: number]>>;
}

/** How the probe gets in; by hand the same way. */
export function execArguments({ host, names, id }: LiveRun): string[] {
  return [host.runsc, `--root=${names.runscRoot}`, "exec", "--user=10000:10000", id];
}

/**
 * Asks from inside. The probe has what a command of the run has: its user, no capability, its filter, its network. Its
 * processes could disturb it, but not have it say that what it could reach it could not: they have no more than it has.
 */
export async function lookInside(run: LiveRun, asked: Asked): Promise<Inside> {
  const { cgroups } = run.host;
  const left = cgroups.memoryLeft(run.names.cgroup);
  if (left !== null && left < ROOM_BYTES)
    throw new Error("the run has so little memory left that a probe inside might end it");
  const script = `${common}\nimport re\nasked = json.loads(${JSON.stringify(JSON.stringify(asked))})\n${probe}`;
  const argv = [...execArguments(run), "/usr/bin/python3", "-I", "-"];
  const said = await run.host.run(argv, { timeoutMs: TIMEOUT_MS, stdin: script, maxOutputBytes: MAX_BYTES });
  const line = said.split("\n").find((one) => one.startsWith(MARK));
  if (line === undefined) throw new Error("the probe inside was ended before it said anything");
  return report.parse(JSON.parse(line.slice(MARK.length)));
}

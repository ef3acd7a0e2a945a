import { closeSync, openSync, readFileSync } from "node:fs";
import { constants } from "../../kernel/openat2.ts";
import { childrenOf, unlessGone } from "../../kernel/process.ts";
import { identify, isAlive, signalPid, type ProcessIdentity } from "../process.ts";
import { HOST_ENV } from "../runner.ts";
import { OOM_SCORE_ADJ } from "../spec.ts";
import type { Fifos } from "./fifos.ts";
import type { RunNames } from "./names.ts";

/**
 * Waits for runsc in the place of a sandboxd that may be away, writes down how it ended, and then stands still: it holds
 * the run's FIFOs, so what the run said last waits there for api, until the run is forgotten. The score is set before
 * runsc starts, since the processes that it makes for the sandbox's tasks inherit it.
 */
const SCRIPT = `echo ${OOM_SCORE_ADJ} >/proc/self/oom_score_adj || exit; "$@"; echo $? >"$0"; kill -STOP $$`;
const MAX_LOG_BYTES = 2 * 1024;

/** runsc gets the FIFOs as its stdin, its stdout and what it passes on (RUN_STDERR_FD); its own stderr is the log. */
export function startShim(
  names: RunNames,
  runsc: string,
  argv: readonly string[],
  fifos: Fifos,
): ProcessIdentity {
  const log = openSync(names.log, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, 0o600);
  try {
    const shim = Bun.spawn(["/bin/sh", "-c", SCRIPT, names.exit, runsc, ...argv], {
      stdio: [fifos.in, fifos.out, log, fifos.err],
      env: HOST_ENV,
      cwd: "/",
      detached: true,
    });
    shim.unref();
    const identity = identify(shim.pid);
    if (identity === undefined) throw new Error("it ended at once");
    return identity;
  } finally {
    closeSync(log);
  }
}

/** What runsc ended with; undefined while nothing is written down. */
export function exitStatus({ exit }: RunNames): number | undefined {
  const text = readIfThere(exit)?.trim() ?? "";
  return /^\d+$/.test(text) ? Number(text) : undefined;
}

/** runsc, as long as its shim waits for it. */
export function waitsForRunsc(shim: ProcessIdentity): boolean {
  return isAlive(shim) && children(shim).length > 0;
}

export function killRunsc(shim: ProcessIdentity): void {
  if (isAlive(shim)) for (const pid of children(shim)) signalPid(pid);
}

/** What runsc said of itself, cut. */
export function complaint({ log }: RunNames): string {
  return (readIfThere(log) ?? "").slice(0, MAX_LOG_BYTES).trim();
}

function children({ pid }: ProcessIdentity): number[] {
  return unlessGone(() => childrenOf(pid)) ?? [];
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    throw error;
  }
}

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import type { SandboxNames } from "./names.ts";
import { identify, isAlive, type ProcessIdentity } from "./process.ts";
import { HOST_ENV, readCapped } from "./runner.ts";
import { OOM_SCORE_ADJ } from "./spec.ts";

const MAX_STDERR_BYTES = 2 * 1024;
const POLL_MS = 4;
const LAST_WORDS_MS = 50;

/** Which of runsc's processes for a sandbox it is, by what it calls itself; null: neither. */
export function runscPart([name]: readonly string[]): "sandbox" | "gofer" | null {
  if (name === "runsc-gofer") return "gofer";
  return name === "runsc-sandbox" ? "sandbox" : null;
}

/** `runsc run` in the foreground: it lives as long as its sandbox, and its death is the sandbox's. */
export interface RunscRun {
  readonly identity: ProcessIdentity;
  readonly ended: Promise<unknown>;
  /** Its and the init's first words on stderr, as far as they have come. */
  readonly complaint: () => string;
}

/**
 * Starts a sandbox. `stdio` becomes its stdin and stdout and stays the caller's to close. choom sets the score before
 * runsc starts, because the processes that runsc makes for the sandbox's tasks inherit it and are not adjusted later.
 */
export function startRunsc(
  runsc: string,
  flags: readonly string[],
  names: SandboxNames,
  stdio: number,
): RunscRun {
  const child = Bun.spawn(
    [
      "/usr/bin/choom",
      "-n",
      `${OOM_SCORE_ADJ}`,
      "--",
      runsc,
      ...flags,
      "run",
      "--bundle",
      names.bundle,
      names.id,
    ],
    { stdio: [stdio, stdio, "pipe"], env: HOST_ENV, cwd: "/", detached: true },
  );
  const { done, text } = readCapped(child.stderr, MAX_STDERR_BYTES);
  // A stream that breaks has said what it had to say.
  done.catch(() => {});
  const identity = identify(child.pid);
  if (identity === undefined) throw new Error("runsc ended at once");
  return { identity, ended: child.exited, complaint: () => text().trim() };
}

const stateSchema = z.object({ status: z.string(), sandbox: z.object({ pid: z.int().min(1) }) });

/** The sandbox's main process, once runsc's own state file says that the sandbox runs. */
export async function whenRunning(names: SandboxNames, run: RunscRun, timeoutMs: number): Promise<number> {
  const deadline = Date.now() + timeoutMs;
  while (Date.now() < deadline) {
    const state = readState(names.runsc.state);
    if (state?.status === "running") return state.sandbox.pid;
    if (!isAlive(run.identity)) {
      // Its last words may still be on their way.
      await sleep(LAST_WORDS_MS);
      throw new Error(`runsc ended before the sandbox ran: ${run.complaint() || "no message"}`);
    }
    await sleep(POLL_MS);
  }
  throw new Error(`the sandbox does not run after ${timeoutMs} ms`);
}

/** runsc rewrites the file in place, so a half of it may be seen: that is "not yet". */
export function readState(file: string): z.infer<typeof stateSchema> | undefined {
  try {
    return stateSchema.safeParse(JSON.parse(readFileSync(file, "utf8"))).data;
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { z } from "zod";
import { OperationError } from "../protocol/lines/failure.ts";
import type { SandboxNames } from "./names.ts";

/*
 * A sandbox is made to stand still by its own kernel: it stops all tasks, lets what they were doing end, and answers. (The
 * cgroup's freezer can't be used: it interrupts system calls of the processes that run the sandbox's programs, which
 * don't expect that; programs crash.) A sandbox's kernel that a tenant has taken over may lie about it. What that tenant
 * gets is a snapshot of its own files that mixes two moments.
 */

/** Tasks that wait for the disk stop when it has answered. */
const WAIT_MS = 5_000;
const MAX_ANSWER_BYTES = 4 * 1024;

const answerSchema = z.object({ success: z.boolean(), err: z.string() });

type Outcome = "done" | "refused" | "late";

/** Resolves when nothing of the sandbox runs any more. After a throw it runs. */
export async function makeStand(names: SandboxNames): Promise<void> {
  note(names, "changing");
  const outcome = await ask(names, "containerManager.Pause", WAIT_MS);
  if (outcome === "done") return note(names, "stands");
  // Asked for, so that it has to be taken back: it counts.
  if (outcome === "late") await letGo(names);
  else rmSync(names.standing, { force: true });
  throw new OperationError("unavailable", `sandbox ${names.id} can't be made to stand still now`);
}

/** Once for each makeStand. Throws when it still stands: then it is of no use any more. */
export async function letGo(names: SandboxNames): Promise<void> {
  note(names, "changing");
  const outcome = await ask(names, "containerManager.Resume", WAIT_MS);
  if (outcome !== "done") throw new Error(`sandbox ${names.id} does not go on: ${outcome}`);
  rmSync(names.standing, { force: true });
}

/**
 * What an earlier sandboxd has left undone. Throws when it can't be known: the kernel counts, and to let go of one that
 * does not stand kills it.
 */
export async function letGoAdopted(names: SandboxNames): Promise<void> {
  const state = noted(names);
  if (state === undefined) return;
  if (state !== "stands") throw new Error("it was just being stopped for a snapshot, or let go");
  await letGo(names);
}

function note({ standing }: SandboxNames, state: "changing" | "stands"): void {
  writeFileSync(standing, state, { mode: 0o600 });
}

function noted({ standing }: SandboxNames): string | undefined {
  try {
    return readFileSync(standing, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** One call of runsc's own protocol, as `runsc pause` makes it: that would take a process and 50 ms. */
async function ask({ runsc }: SandboxNames, method: string, timeoutMs: number): Promise<Outcome> {
  const { promise, resolve } = Promise.withResolvers<Outcome>();
  let text = "";
  const take = (chunk: Uint8Array): void => {
    text += Buffer.from(chunk).toString();
    if (text.length > MAX_ANSWER_BYTES) return resolve("late");
    const answer = answerSchema.safeParse(parsed(text));
    if (answer.success) resolve(answer.data.success ? "done" : "refused");
  };
  let socket;
  try {
    socket = await Bun.connect({
      unix: runsc.socket,
      socket: {
        open: (open) => void open.write(JSON.stringify({ method, arg: {} })),
        data: (_, chunk) => take(chunk),
        close: () => resolve("late"),
        error: () => resolve("late"),
      },
    });
  } catch {
    return "refused";
  }
  const timer = setTimeout(() => resolve("late"), timeoutMs);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    socket.terminate();
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

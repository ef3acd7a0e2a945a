/**
 * The one way in which sandboxd runs a program to its end: an argv array, a fixed environment, a deadline after which
 * the whole process group dies, and output that is cut instead of kept without bound.
 */
export const HOST_ENV = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" } as const;

const MAX_OUTPUT_BYTES = 256 * 1024;

export interface RunOptions {
  readonly timeoutMs: number;
  readonly stdin?: string;
  /** Of each stream; what is beyond it is cut. */
  readonly maxOutputBytes?: number;
}

export type Runner = (argv: readonly string[], options: RunOptions) => Promise<string>;

export type FailureReason =
  | { readonly kind: "spawn" }
  | { readonly kind: "exit"; readonly code: number }
  | { readonly kind: "signal"; readonly signal: string | number }
  | { readonly kind: "timeout"; readonly ms: number };

export class CommandError extends Error {
  readonly argv: readonly string[];
  readonly reason: FailureReason;
  readonly stderr: string;

  constructor(argv: readonly string[], reason: FailureReason, stderr: string, cause?: unknown) {
    super(`${argv.join(" ")}: ${describe(reason)}${stderr === "" ? "" : `: ${stderr.trim()}`}`, { cause });
    this.name = "CommandError";
    this.argv = argv;
    this.reason = reason;
    this.stderr = stderr;
  }
}

function describe(reason: FailureReason): string {
  if (reason.kind === "spawn") return "could not be started";
  if (reason.kind === "exit") return `exit status ${reason.code}`;
  if (reason.kind === "signal") return `killed by ${reason.signal}`;
  return `no end after ${reason.ms} ms`;
}

/** Reads a stream to its end and keeps its first `limit` bytes, so that a noisy program can't block or fill memory. */
export function readCapped(stream: ReadableStream<Uint8Array>, limit: number) {
  const kept: Uint8Array[] = [];
  const read = async () => {
    let room = limit;
    for await (const piece of stream) {
      if (room > 0) kept.push(piece.subarray(0, room));
      room -= Math.min(room, piece.length);
    }
  };
  /** `text` is what has come so far. */
  return { done: read(), text: () => Buffer.concat(kept).toString("utf8") };
}

/** Runs `argv` and gives back its standard output; throws CommandError on anything but exit status 0. */
export const runCommand: Runner = async (argv, { timeoutMs, stdin, maxOutputBytes = MAX_OUTPUT_BYTES }) => {
  const child = spawnOrThrow(argv, stdin);
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    killGroup(child.pid);
  }, timeoutMs);
  try {
    const out = readCapped(child.stdout, maxOutputBytes);
    const err = readCapped(child.stderr, maxOutputBytes);
    await Promise.all([out.done, err.done, child.exited]);
    const stderr = err.text();
    if (timedOut) throw new CommandError(argv, { kind: "timeout", ms: timeoutMs }, stderr);
    if (child.signalCode !== null)
      throw new CommandError(argv, { kind: "signal", signal: child.signalCode }, stderr);
    if (child.exitCode !== 0)
      throw new CommandError(argv, { kind: "exit", code: child.exitCode ?? -1 }, stderr);
    return out.text();
  } finally {
    clearTimeout(timer);
  }
};

function spawnOrThrow(argv: readonly string[], stdin: string | undefined) {
  try {
    return Bun.spawn([...argv], {
      stdin: stdin === undefined ? "ignore" : new Blob([stdin]),
      stdout: "pipe",
      stderr: "pipe",
      env: HOST_ENV,
      cwd: "/",
      // A session of its own, so that the deadline can end it with all it started.
      detached: true,
    });
  } catch (error) {
    throw new CommandError(argv, { kind: "spawn" }, "", error);
  }
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

import type { Config } from "../config/schema.ts";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import type { Log } from "../log.ts";
import { MAX_COMMAND_BYTES, MAX_STDIN_BYTES } from "../protocol/frames.ts";
import type { Growth, Watched } from "../volumes/growth.ts";
import { unmirrored, type Mirror } from "../remote/mirror.ts";
import type { Leases } from "../volumes/leases.ts";
import type { Stop } from "../volumes/running.ts";
import { createAdmission, hungUp } from "./admission.ts";
import type { Connections } from "./connections.ts";
import type { SandboxdClient } from "./sandboxd-client.ts";
import { outcomeOf, unmetered, type ExecMeter } from "./meter.ts";
import { Session, type RunningCall } from "./session.ts";
import { createWarmSet } from "./warm-set.ts";

interface ExecRequest {
  readonly namespace: NamespaceId;
  /** What bash evaluates. */
  readonly command: string;
  /** undefined: /dev/null. */
  readonly stdin?: Uint8Array | undefined;
  /** The caller went away: the command is killed. */
  readonly signal?: AbortSignal | undefined;
  /** The command is sent when this has resolved, and not at all when it rejects; meanwhile its sandbox is found. */
  readonly announced?: Promise<unknown> | undefined;
  /** Told once of a command that was sent how it ended, also where exec then throws. */
  readonly onEnd?: ((end: ExecEnd) => void) | undefined;
}

export interface ExecEnd {
  readonly ended: "exited" | "out_of_memory" | "timed_out" | "killed" | "lost" | Stop["ended"];
  /** null when it is not known. */
  readonly exitCode: number | null;
  /** What is known of it; nothing of a lost one. */
  readonly stdout: Uint8Array;
  readonly durationMs: number;
}

export interface ExecResult {
  /** 128+n for a signal; 137 with `oom` when the sandbox ran out of memory. */
  readonly exitCode: number;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  readonly stdoutTruncated: boolean;
  readonly stderrTruncated: boolean;
  /** Of the command itself, without the wait for its turn or for a sandbox. */
  readonly durationMs: number;
  readonly oom: boolean;
}

export interface Exec {
  /** Throws AppError bad_input or too_large for what exec would refuse: before a namespace is made for it. */
  check(request: Pick<ExecRequest, "command" | "stdin">): void;
  /**
   * Waits for the turn of `owner`, a namespace that need not exist yet, and holds it for `work`. Throws AppError busy
   * when it does not come, and nothing is done then.
   */
  turn<T>(owner: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T>;
  /**
   * Runs one command in the namespace's sandbox, in a turn. Throws AppError: bad_input or too_large before anything
   * runs, unavailable when it did not run, timeout and sandbox_lost when it may have.
   */
  exec(request: ExecRequest): Promise<ExecResult>;
  /** Ends the namespace's sandbox and what runs in it; resolves when it is gone. */
  stopNamespace(namespace: NamespaceId): Promise<void>;
  /** Calls that come from now on have the limits of this configuration. */
  reload(config: Config): void;
  /** Whether the namespace has a sandbox, or is getting one. */
  isWarm(namespace: NamespaceId): boolean;
  stats(): { running: number; waiting: number; warm: number; unclaimed: number };
  /** Takes no more calls, lets those that run end, then stops every sandbox. */
  close(): Promise<void>;
}

interface Options {
  readonly config: Config;
  readonly sandboxd: SandboxdClient;
  readonly connections: Connections;
  readonly log: Log;
  /** Held on the namespace's files: sandboxd attaches a volume that must be there. */
  readonly leases?: Pick<Leases, "acquire">;
  /** Stops commands that write more than there is room for. */
  readonly growth?: Growth;
  /** Has what a command changed before its caller is answered. */
  readonly mirror?: Pick<Mirror, "running">;
  readonly meter?: ExecMeter;
}

/** Well under the 45 s after which the SDK gives up, together with the command's own 30 s. */
const MAX_WAIT_MS = 10_000;

export function createExec(options: Options): Exec {
  const { sandboxd, connections, log, leases = unleased, growth = unwatched, meter = unmetered } = options;
  const { mirror = unmirrored } = options;
  let limits = options.config.exec;
  const admission = createAdmission(() => ({
    concurrency: limits.concurrency,
    perNamespace: limits.per_namespace,
    queue: limits.queue,
    maxWaitMs: MAX_WAIT_MS,
  }));
  const warm = createWarmSet({
    open: openSession,
    limits: () => ({ idleMs: limits.idle_s * 1000, max: limits.warm }),
    // api's own /proc shows processes only.
    availableMemory: async () => (await sandboxd.call("status", {})).memory_available_bytes,
    log,
  });
  let closing: Promise<void> | undefined;

  async function openSession(namespace: NamespaceId): Promise<Session> {
    const startedAt = performance.now();
    const { sandbox, nonce, from_pool } = await sandboxd.call("ensureSandbox", { namespace });
    const host = {
      inspect: () => sandboxd.call("inspectSandbox", { sandbox }),
      stop: async () => void (await sandboxd.call("stopSandbox", { sandbox })),
    };
    try {
      const connection = await connections.claim(sandbox, nonce);
      const session = new Session({ sandbox, connection, host, log });
      await session.ready;
      meter.opened(from_pool ? "pool" : "boot", secondsSince(startedAt));
      return session;
    } catch (error) {
      // Else ensureSandbox would name it again, and no connection would ever come.
      await host.stop().catch((cause: unknown) => {
        log.warn("a sandbox that failed to start could not be stopped", { sandbox, error: String(cause) });
      });
      throw error;
    }
  }

  /** A live session for a command that may be sent now. */
  async function sessionFor({ namespace, signal, announced }: ExecRequest) {
    const acquiring = warm.acquire(namespace, signal);
    // It may fail while the other is waited for.
    acquiring.catch(() => {});
    try {
      await announced;
    } catch (error) {
      acquiring.then(
        ({ release }) => release(),
        () => {},
      );
      throw error;
    }
    const lease = await acquiring;
    if (lease.session.alive) return lease;
    // It ended while the announcement was written.
    lease.release();
    return await warm.acquire(namespace, signal);
  }

  /**
   * The same, while nobody has the volume to himself: what he stops then is every sandbox that could be writing. A
   * command may be sent to one that is stopped; it waits there.
   */
  async function startable(request: ExecRequest) {
    const release = await leases.acquire(request.namespace, "write");
    try {
      return await sessionFor(request);
    } finally {
      release();
    }
  }

  /** While its volume is open. */
  async function commandOf(request: ExecRequest): Promise<ExecResult> {
    const { namespace, command, stdin, signal, onEnd } = request;
    const watched = await growth.begin(namespace);
    try {
      const lease = await startable(request);
      try {
        const running = lease.session.run({
          command,
          stdin,
          outputCap: limits.output_mb * 1024 * 1024,
        });
        const result = await finish(running, { timeoutS: limits.timeout_s, signal, onEnd, watched });
        const code = result.exitCode === 0 ? "zero" : "nonzero";
        meter.ended(result.oom ? "out_of_memory" : code, result.durationMs / 1000);
        return result;
      } finally {
        lease.release();
      }
    } finally {
      await watched.end();
    }
  }

  function check({ command, stdin }: Pick<ExecRequest, "command" | "stdin">): void {
    const maxCommandBytes = Math.min(limits.command_kb * 1024, MAX_COMMAND_BYTES);
    if (command.includes("\0")) throw new AppError("bad_input", "A command cannot hold a NUL character.");
    if (Buffer.byteLength(command) > maxCommandBytes) {
      throw new AppError(
        "too_large",
        `A command has at most ${maxCommandBytes} bytes. Write a longer script to a file and run that.`,
      );
    }
    if (stdin !== undefined && stdin.length > MAX_STDIN_BYTES) {
      throw new AppError(
        "too_large",
        "The stdin has at most 1 MiB. Write more to a file and redirect it in the command.",
      );
    }
    growth.check();
  }

  return {
    check,

    async turn(owner, signal, work) {
      if (closing !== undefined) throw stopping();
      const askedAt = performance.now();
      const release = await admission.admit(owner, signal).catch((error: unknown) => {
        meter.ended(outcomeOf(error, signal), null);
        throw error;
      });
      meter.waited(secondsSince(askedAt));
      try {
        return await work();
      } finally {
        release();
      }
    },

    async exec(request) {
      check(request);
      const { namespace, signal } = request;
      try {
        const release = await leases.acquire(namespace, "read");
        try {
          return await mirror.running(namespace, async () => commandOf(request));
        } finally {
          release();
        }
      } catch (error) {
        meter.ended(outcomeOf(error, signal), null);
        throw error;
      }
    },

    reload(config) {
      limits = config.exec;
    },

    stopNamespace: (namespace) => warm.stop(namespace),

    isWarm: (namespace) => warm.has(namespace),

    stats: () => ({
      running: admission.stats().running,
      waiting: admission.stats().waiting,
      warm: warm.stats().warm,
      unclaimed: connections.unclaimed,
    }),

    close() {
      closing ??= (async () => {
        admission.refuseWaiting(stopping());
        await admission.idle();
        await warm.close();
      })();
      return closing;
    },
  };
}

const unwatched: Growth = {
  check() {},
  begin: async () => ({ stopped: new AbortController().signal, end: async () => null }),
};
const unleased: Pick<Leases, "acquire"> = { acquire: async () => () => {} };

interface FinishOptions extends Pick<ExecRequest, "signal" | "onEnd"> {
  readonly timeoutS: number;
  readonly watched: Watched;
}

/** Waits for the call's end, for its wall clock, for its caller to go or for its disk to be full, whichever is first. */
async function finish(
  running: RunningCall,
  { timeoutS, signal, onEnd, watched }: FinishOptions,
): Promise<ExecResult> {
  const start = performance.now();
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    running.kill();
  }, timeoutS * 1000);
  const onAbort = (): void => running.kill();
  for (const either of [signal, watched.stopped]) {
    either?.addEventListener("abort", onAbort, { once: true });
    // It may have fired just before there was anything to kill.
    if (either?.aborted === true) running.kill();
  }
  try {
    const { killed, ...outcome } = await running.outcome.catch((error: unknown) => {
      onEnd?.({ ended: "lost", exitCode: null, stdout: new Uint8Array(), durationMs: since(start) });
      throw error;
    });
    const durationMs = since(start);
    const { exitCode, stdout, oom } = outcome;
    const stop = await watched.end();
    onEnd?.({ ended: stop?.ended ?? endOf({ killed, late, oom }), exitCode, stdout, durationMs });
    if (stop !== null) throw stop.error;
    if (killed && late) {
      throw new AppError(
        "timeout",
        `The command ran longer than ${timeoutS} s and was stopped, with all that it started. Files that it wrote stay.`,
      );
    }
    if (killed && signal?.aborted === true) throw hungUp();
    return { ...outcome, durationMs };
  } finally {
    clearTimeout(timer);
    for (const either of [signal, watched.stopped]) either?.removeEventListener("abort", onAbort);
  }
}

function since(start: number): number {
  return Math.round(performance.now() - start);
}

function endOf(how: { killed: boolean; late: boolean; oom: boolean }): ExecEnd["ended"] {
  if (how.killed) return how.late ? "timed_out" : "killed";
  return how.oom ? "out_of_memory" : "exited";
}

function secondsSince(then: number): number {
  return (performance.now() - then) / 1000;
}

function stopping(): AppError {
  return new AppError("unavailable", "The server is stopping. Try again in a moment.", { retryAfterS: 5 });
}

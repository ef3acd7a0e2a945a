import { AppError } from "../errors.ts";
import type { SandboxId } from "../ids.ts";
import type { Log } from "../log.ts";
import { ExitFlag, FrameType, PROTOCOL_VERSION } from "../protocol/frames.ts";
import type { SandboxConnection } from "./connections.ts";
import {
  encodeKill,
  encodeRun,
  FrameDecoder,
  FrameError,
  FROM_INIT,
  readU32,
  type RunRequest,
} from "./frame-codec.ts";
import { Output } from "./output.ts";

export interface Outcome {
  /** 128+n for a signal. */
  readonly exitCode: number;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  readonly stdoutTruncated: boolean;
  readonly stderrTruncated: boolean;
  /** The sandbox had no memory left and died; exitCode is 137 and the output is what came before. */
  readonly oom: boolean;
  /** It ended because of kill(). */
  readonly killed: boolean;
}

export interface RunningCall {
  /** Everything that the call started is dead when this settles. Rejects with AppError sandbox_lost only. */
  readonly outcome: Promise<Outcome>;
  /** Idempotent, and of no effect on a call that is over. */
  kill(): void;
}

/** What a session asks of sandboxd about its own sandbox. */
export interface SandboxHost {
  inspect(): Promise<{ state: "running" | "gone"; oom: boolean }>;
  stop(): Promise<void>;
}

export interface SessionTimes {
  /** From the connection to READY. */
  readonly readyMs: number;
  /** From KILL to EXIT. */
  readonly killMs: number;
  /** For sandboxd to notice that a sandbox whose connection ended is gone. */
  readonly goneMs: number;
}

const SESSION_TIMES: SessionTimes = { readyMs: 10_000, killMs: 2_000, goneMs: 1_500 };

const MAX_CALL_NUMBER = 0xffff_ffff;

interface Call {
  readonly cap: number;
  readonly stdout: Output;
  readonly stderr: Output;
  readonly settle: PromiseWithResolvers<Outcome>;
  /** Set once KILL was sent: what happens when no EXIT comes. */
  killTimer: Timer | undefined;
}

/** Why a session ended; `detail` completes "The command may have run, but ". */
type End = { readonly by: "peer" } | { readonly by: "us"; readonly detail: string };

/** One live sandbox: many calls at once over its connection. It ends once and for all; nothing is retried on it. */
export class Session {
  readonly sandbox: SandboxId;
  /** Resolves when the sandbox can run commands; rejects with AppError unavailable when it ends before. */
  readonly ready: Promise<void>;
  /** Resolves when the sandbox is gone from the host, as far as sandboxd answers, and each call has its outcome. */
  readonly over: Promise<void>;

  readonly #connection: SandboxConnection;
  readonly #host: SandboxHost;
  readonly #log: Log;
  readonly #times: SessionTimes;
  readonly #calls = new Map<number, Call>();
  readonly #decoder = new FrameDecoder(FROM_INIT, (type, call, payload) =>
    this.#onFrame(type, call, payload),
  );
  readonly #ready = Promise.withResolvers<void>();
  readonly #over = Promise.withResolvers<void>();
  readonly #readyTimer: Timer;
  #state: "starting" | "ready" | "ended" = "starting";
  #lastCall = 0;

  constructor(options: {
    sandbox: SandboxId;
    connection: SandboxConnection;
    host: SandboxHost;
    log: Log;
    times?: SessionTimes;
  }) {
    this.sandbox = options.sandbox;
    this.#connection = options.connection;
    this.#host = options.host;
    this.#log = options.log;
    this.#times = options.times ?? SESSION_TIMES;
    this.ready = this.#ready.promise;
    this.over = this.#over.promise;
    // Whoever waits for it gets the rejection; nobody has to.
    this.ready.catch(() => {});
    this.#readyTimer = setTimeout(
      () => this.#end({ by: "us", detail: "its sandbox did not get ready in time." }),
      this.#times.readyMs,
    );
    this.#connection.attach({
      data: (chunk) => this.#onData(chunk),
      close: () => this.#end({ by: "peer" }),
    });
  }

  get alive(): boolean {
    return this.#state !== "ended";
  }

  /** Only on a session that is ready and alive: there is no wait between looking and this. */
  run(request: RunRequest): RunningCall {
    if (this.#state !== "ready") throw new Error(`run on a session that is ${this.#state}`);
    const number = (this.#lastCall += 1);
    const call: Call = {
      cap: request.outputCap,
      stdout: new Output(),
      stderr: new Output(),
      settle: Promise.withResolvers(),
      killTimer: undefined,
    };
    this.#calls.set(number, call);
    // Numbers only go up, and a u32 ends: then so does the sandbox.
    if (number > MAX_CALL_NUMBER) this.#end({ by: "us", detail: "its sandbox had served its time." });
    else this.#connection.send(encodeRun(number, request));
    return { outcome: call.settle.promise, kill: () => this.#kill(number, call) };
  }

  /** Stops the sandbox. Calls in flight get sandbox_lost with this reason. */
  end(detail: string): Promise<void> {
    this.#end({ by: "us", detail });
    return this.over;
  }

  #kill(number: number, call: Call): void {
    if (this.#state === "ended" || call.killTimer !== undefined || this.#calls.get(number) !== call) return;
    call.killTimer = setTimeout(
      () => this.#end({ by: "us", detail: "another command in its sandbox could not be stopped." }),
      this.#times.killMs,
    );
    this.#connection.send(encodeKill(number));
  }

  #onData(chunk: Uint8Array): void {
    if (this.#state === "ended") return;
    try {
      this.#decoder.push(chunk);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.#log.warn("a sandbox broke its protocol", { sandbox: this.sandbox, error: error.message });
      this.#end({ by: "us", detail: "its sandbox answered what it must not and was stopped." });
    }
  }

  #onFrame(type: number, number: number, payload: Uint8Array): void {
    // A frame of this chunk may have ended the session.
    if (this.#state === "ended") return;
    if (type === FrameType.Ready) return this.#onReady(number, payload);
    const call = this.#calls.get(number);
    if (call === undefined) throw new FrameError(`call ${number} is not running`);
    if (type === FrameType.Exit) return this.#onExit(number, call, payload);
    const output = type === FrameType.Stdout ? call.stdout : call.stderr;
    if (output.bytes + payload.length > call.cap) throw new FrameError("more output than was asked for");
    output.add(payload);
  }

  #onReady(number: number, payload: Uint8Array): void {
    if (this.#state !== "starting" || number !== 0) throw new FrameError("an unexpected READY");
    const version = readU32(payload, 0);
    if (version !== PROTOCOL_VERSION) throw new FrameError(`the init speaks version ${version}`);
    clearTimeout(this.#readyTimer);
    this.#state = "ready";
    this.#ready.resolve();
  }

  #onExit(number: number, call: Call, payload: Uint8Array): void {
    const status = readU32(payload, 0);
    const flags = payload[4] ?? 0;
    if (status > 255 || flags > 7 || payload[5] !== 0 || payload[6] !== 0 || payload[7] !== 0) {
      throw new FrameError("an EXIT that says what it must not");
    }
    this.#calls.delete(number);
    this.#settle(call, {
      exitCode: status,
      stdoutTruncated: (flags & ExitFlag.StdoutTruncated) !== 0,
      stderrTruncated: (flags & ExitFlag.StderrTruncated) !== 0,
      oom: false,
      killed: (flags & ExitFlag.Killed) !== 0,
    });
  }

  #settle(call: Call, result: Omit<Outcome, "stdout" | "stderr">): void {
    clearTimeout(call.killTimer);
    call.settle.resolve({ ...result, stdout: call.stdout.take(), stderr: call.stderr.take() });
  }

  #end(end: End): void {
    if (this.#state === "ended") return;
    this.#state = "ended";
    clearTimeout(this.#readyTimer);
    for (const call of this.#calls.values()) clearTimeout(call.killTimer);
    this.#connection.close();
    void this.#finish(end);
  }

  /** Never rejects: it is the last word on each call. */
  async #finish(end: End): Promise<void> {
    const { oom, detail } = end.by === "us" ? await this.#stop(end.detail) : await this.#learnFate();
    this.#ready.reject(new AppError("unavailable", "The sandbox could not be started.", { retryAfterS: 2 }));
    for (const call of this.#calls.values()) {
      const killed = call.killTimer !== undefined;
      if (oom || killed) {
        this.#settle(call, { exitCode: 137, stdoutTruncated: false, stderrTruncated: false, oom, killed });
      } else {
        call.settle.reject(new AppError("sandbox_lost", `The command may have run, but ${detail}`));
      }
    }
    this.#calls.clear();
    this.#over.resolve();
  }

  async #stop(detail: string): Promise<{ oom: boolean; detail: string }> {
    try {
      await this.#host.stop();
    } catch (error) {
      // The sandbox ends by itself, since its connection has: sandboxd only cleans up.
      this.#log.warn("a sandbox was left to end by itself", { sandbox: this.sandbox, error: String(error) });
    }
    return { oom: false, detail };
  }

  /** The connection ended first: asks why, and sees that the sandbox really goes. */
  async #learnFate(): Promise<{ oom: boolean; detail: string }> {
    const detail = "its sandbox ended before it did.";
    const deadline = performance.now() + this.#times.goneMs;
    try {
      for (;;) {
        const { state, oom } = await this.#host.inspect();
        if (state === "gone") {
          this.#log.warn("a sandbox ended", { sandbox: this.sandbox, oom, calls: this.#calls.size });
          return { oom, detail };
        }
        if (performance.now() > deadline) return await this.#stop(detail);
        await Bun.sleep(25);
      }
    } catch (error) {
      this.#log.warn("the fate of a sandbox is not known", { sandbox: this.sandbox, error: String(error) });
      return { oom: false, detail };
    }
  }
}

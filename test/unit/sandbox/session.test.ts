import { describe, expect, test } from "bun:test";
import { AppError } from "../../../src/errors.ts";
import { sandboxId } from "../../../src/ids.ts";
import { createLog } from "../../../src/log.ts";
import { ExitFlag, FrameType, PROTOCOL_VERSION } from "../../../src/protocol/frames.ts";
import type { SandboxConnection } from "../../../src/sandbox/connections.ts";
import { FrameDecoder } from "../../../src/sandbox/frame-codec.ts";
import { Session, type SandboxHost, type SessionTimes } from "../../../src/sandbox/session.ts";
import { exitFrame, frame, readyFrame, TO_INIT } from "../../fixtures/fake-init.ts";
import { seededRandom } from "../../fixtures/random.ts";

const log = createLog("test", () => {});
const times: SessionTimes = { readyMs: 30, killMs: 20, goneMs: 20 };

/** A connection whose other end is the test. */
class FakeConnection implements SandboxConnection {
  #receiver: Parameters<SandboxConnection["attach"]>[0] | undefined;
  readonly sent: { type: number; call: number }[] = [];
  readonly #decoder = new FrameDecoder(TO_INIT, (type, call) => this.sent.push({ type, call }));
  closed = false;

  attach(receiver: Parameters<SandboxConnection["attach"]>[0]): void {
    this.#receiver = receiver;
  }
  send(bytes: Uint8Array): void {
    this.#decoder.push(bytes);
  }
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.#receiver?.close();
  }
  say(...chunks: Uint8Array[]): void {
    for (const chunk of chunks) if (!this.closed) this.#receiver?.data(chunk);
  }
}

interface Fate {
  oom?: boolean;
  state?: "gone" | "running";
  /** sandboxd does not answer. */
  away?: boolean;
}

function open({ oom = false, state = "gone", away = false }: Fate = {}) {
  const connection = new FakeConnection();
  const asked: string[] = [];
  const host: SandboxHost = {
    async inspect() {
      asked.push("inspect");
      if (away) throw new AppError("unavailable", "away");
      return { state, oom };
    },
    async stop() {
      asked.push("stop");
      if (away) throw new AppError("unavailable", "away");
    },
  };
  const session = new Session({ sandbox: sandboxId.make(), connection, host, log, times });
  return { connection, session, asked };
}

const request = { command: "x", stdin: undefined, outputCap: 100 };
const errorOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    (value) => ({ value }),
    (error: unknown) => error,
  );
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

describe("session", () => {
  test("is ready after READY, and numbers its calls upwards", async () => {
    const { connection, session } = open();
    expect(() => session.run(request)).toThrow("run on a session that is starting");
    connection.say(readyFrame());
    await session.ready;
    const first = session.run(request);
    connection.say(exitFrame(1, 0));
    await first.outcome;
    session.run(request);
    expect(connection.sent).toEqual([
      { type: FrameType.Run, call: 1 },
      { type: FrameType.Run, call: 2 },
    ]);
  });

  test("without READY in time, or with another version, it is stopped", async () => {
    const { session, asked } = open();
    expect(await errorOf(session.ready)).toMatchObject({ code: "unavailable" });
    expect(asked).toEqual(["stop"]);
    const other = open();
    other.connection.say(readyFrame(PROTOCOL_VERSION + 1));
    expect(await errorOf(other.session.ready)).toMatchObject({ code: "unavailable" });
  });

  test("tells the flags of an EXIT", async () => {
    const { connection, session } = open();
    connection.say(readyFrame());
    const calls = [session.run(request), session.run(request)];
    connection.say(
      frame(FrameType.Stdout, 2, text("two")),
      frame(FrameType.Stderr, 1, text("one")),
      exitFrame(2, 137, ExitFlag.Killed | ExitFlag.StderrTruncated),
      exitFrame(1, 5, ExitFlag.StdoutTruncated),
    );
    expect(await calls[0]!.outcome).toEqual({
      exitCode: 5,
      stdout: text(""),
      stderr: text("one"),
      stdoutTruncated: true,
      stderrTruncated: false,
      oom: false,
      killed: false,
    });
    expect(await calls[1]!.outcome).toMatchObject({
      exitCode: 137,
      stdout: text("two"),
      stderrTruncated: true,
      killed: true,
    });
  });

  test.each<[string, Uint8Array]>([
    ["a second READY", readyFrame()],
    ["output of a call that never was", frame(FrameType.Stdout, 9, text("x"))],
    ["output of a call that is over", frame(FrameType.Stdout, 2, text("x"))],
    ["a second EXIT", exitFrame(2, 0)],
    ["an exit status over 255", frame(FrameType.Exit, 1, Uint8Array.of(0, 1, 0, 0, 0, 0, 0, 0))],
    ["an unknown flag", exitFrame(1, 0, 8)],
    ["more output than the cap", frame(FrameType.Stderr, 1, new Uint8Array(101))],
    ["what only api may say", frame(FrameType.Kill, 1)],
  ])("%s ends it, stops the sandbox and loses its calls", async (_what, bytes) => {
    const { connection, session, asked } = open();
    connection.say(readyFrame());
    const [call, over] = [session.run(request), session.run(request)];
    connection.say(exitFrame(2, 0));
    await over.outcome;
    connection.say(bytes);
    expect(session.alive).toBe(false);
    expect(await errorOf(call.outcome)).toMatchObject({ code: "sandbox_lost" });
    expect([asked, connection.closed]).toEqual([["stop"], true]);
  });

  test("KILL is sent once, and without an EXIT the sandbox is stopped", async () => {
    const { connection, session, asked } = open();
    connection.say(readyFrame());
    const [killed, other] = [session.run(request), session.run(request)];
    killed.kill();
    killed.kill();
    expect(connection.sent.filter(({ type }) => type === FrameType.Kill)).toEqual([
      { type: FrameType.Kill, call: 1 },
    ]);
    const lost = errorOf(other.outcome);
    expect(await killed.outcome).toMatchObject({ killed: true, exitCode: 137 });
    expect(await lost).toMatchObject({ code: "sandbox_lost" });
    expect(asked).toEqual(["stop"]);
  });

  test("its end by memory, by itself and by what nobody knows", async () => {
    const outcomes = [];
    for (const host of [{ oom: true }, { oom: false }, { away: true }]) {
      const { connection, session } = open(host);
      connection.say(readyFrame());
      const call = session.run(request);
      connection.say(frame(FrameType.Stdout, 1, text("so far")));
      connection.close();
      outcomes.push(await errorOf(call.outcome));
      await session.over;
    }
    expect(outcomes).toMatchObject([
      { value: { exitCode: 137, oom: true, stdout: text("so far") } },
      { code: "sandbox_lost" },
      { code: "sandbox_lost" },
    ]);
  });

  test("a sandbox that lives on without its connection is stopped", async () => {
    const { connection, session, asked } = open({ state: "running" });
    connection.say(readyFrame());
    connection.close();
    await session.over;
    expect([asked[0], asked.at(-1)]).toEqual(["inspect", "stop"]);
  });

  const base = Number(Bun.env["SEED"] ?? 1);
  test(`whatever an init says, each call ends, and well or with sandbox_lost (seeds from ${base})`, async () => {
    let [well, lost] = [0, 0];
    for (let seed = base; seed < base + 400; seed += 1) {
      const random = seededRandom(seed);
      const { connection, session } = open({ oom: random.int(4) === 0 });
      connection.say(readyFrame());
      const calls = Array.from({ length: 1 + random.int(4) }, () => session.run(request));
      for (let i = 0; i < 12; i += 1) {
        const call = random.int(40) === 0 ? random.int(9) : 1 + random.int(calls.length);
        const bytes = [
          () => frame(FrameType.Stdout, call, random.bytes(1 + random.int(30))),
          () => frame(FrameType.Stderr, call, random.bytes(1 + random.int(30))),
          () => exitFrame(call, random.int(256), random.int(8)),
          () => (random.int(8) === 0 ? random.bytes(20) : new Uint8Array(0)),
        ][random.int(4)]!();
        const cut = random.int(bytes.length + 1);
        connection.say(bytes.subarray(0, cut), bytes.subarray(cut));
      }
      if (random.int(2) === 0) for (const call of calls) call.kill();
      if (random.int(2) === 0) connection.close();
      else void session.end("the test is over.");
      for (const { outcome } of calls) {
        const result = await errorOf(outcome);
        if (result instanceof AppError && result.code === "sandbox_lost") lost += 1;
        else if (typeof result === "object" && result !== null && "value" in result) well += 1;
        else throw new Error(`SEED=${seed}`, { cause: result });
      }
      await session.over;
    }
    expect(Math.min(well, lost)).toBeGreaterThan(50);
  });
});

import { expect, test } from "bun:test";
import { namespaceId, sandboxId } from "../../../../src/ids.ts";
import { OperationError, StepError, explain } from "../../../../src/protocol/lines/failure.ts";
import { createAnswerer, type Handlers as HandlersOf } from "../../../../src/protocol/lines/operations.ts";
import { operations } from "../../../../src/protocol/sandboxd.ts";

type Handlers = HandlersOf<typeof operations>;

const silent = { info() {}, warn() {}, error() {} };
const sandbox = sandboxId.make();
const answerOf = async (line: string, handlers: Partial<Handlers> = {}, busy = false) => {
  const unasked = () => Promise.reject(new Error("not asked for"));
  const none = Object.fromEntries(Object.keys(operations).map((op) => [op, unasked]));
  const table = { ...(none as unknown as Handlers), ...handlers };
  return JSON.parse(await createAnswerer(operations, table, silent)(line, busy)) as unknown;
};
const throws = (error: Error) => async (): Promise<never> => {
  throw error;
};
const inspect = (args: unknown) => JSON.stringify({ id: 4, op: "inspectSandbox", args });

test("a request is answered by its own handler, under its own number", async () => {
  const inspectSandbox: Handlers["inspectSandbox"] = async ({ sandbox: asked }) => ({
    state: asked === sandbox ? "running" : "gone",
    oom: false,
  });
  expect(await answerOf(inspect({ sandbox }), { inspectSandbox })).toEqual({
    id: 4,
    ok: true,
    result: { state: "running", oom: false },
  });
});

test("what is not in the protocol is refused before any handler sees it", async () => {
  const lines = [
    "",
    "[]",
    '{"id":4}',
    inspect({}),
    inspect({ sandbox: namespaceId.make() }),
    inspect({ sandbox, also: 1 }),
    JSON.stringify({ id: 4, op: "__proto__", args: {} }),
    JSON.stringify({ id: 4, op: "constructor", args: {} }),
  ];
  for (const line of lines) expect(await answerOf(line)).toMatchObject({ ok: false, code: "bad_request" });
});

test("an answer that the protocol does not allow is not sent", async () => {
  const inspectSandbox = (async () => ({
    state: "odd",
    oom: false,
  })) as unknown as Handlers["inspectSandbox"];
  expect(await answerOf(inspect({ sandbox }), { inspectSandbox })).toMatchObject({
    id: 4,
    ok: false,
    code: "failed",
  });
});

test("a failure names its step and its cause; the client's code says whether to come again", async () => {
  const slot = new StepError("slot", new Error("mount", { cause: new Error("EBUSY") }));
  const failing = (error: Error) => answerOf(inspect({ sandbox }), { inspectSandbox: throws(error) });
  expect(await failing(slot)).toEqual({ id: 4, ok: false, code: "failed", detail: "slot: mount: EBUSY" });
  expect(await failing(new OperationError("unavailable", "later"))).toMatchObject({ code: "unavailable" });
  expect(await answerOf(inspect({ sandbox }), {}, true)).toMatchObject({ code: "unavailable" });
  expect(explain(new AggregateError([slot, new Error("other")], "both"))).toBe(
    "both: slot: mount: EBUSY; other",
  );
});

test("a volume's key is in no answer and in no line of the log, however its request fails", async () => {
  const lines: string[] = [];
  const note = (...all: unknown[]) => void lines.push(JSON.stringify(all));
  const log = { info: note, warn: note, error: note };
  const key = "5ec2e7".repeat(22).slice(0, 128);
  const namespace = namespaceId.make();
  const ask = async (args: unknown, unlockVolume: Handlers["unlockVolume"]) => {
    const handlers = { unlockVolume } as unknown as Handlers;
    return createAnswerer(
      operations,
      handlers,
      log,
    )(JSON.stringify({ id: 1, op: "unlockVolume", args }), false);
  };
  const seen = Promise.withResolvers<string>();
  const answers = [
    await ask({ namespace, key }, async (args) => {
      seen.resolve(args.key);
      throw new Error("the disk is gone");
    }),
    await ask({ namespace, key: `${key}0` }, throws(new Error("not asked for"))),
    await ask({ namespace: key, key }, throws(new Error("not asked for"))),
  ];
  expect(await seen.promise).toBe(key);
  expect([...answers, ...lines].filter((text) => text.includes("5ec2e7"))).toEqual([]);
  expect(lines).toHaveLength(1);
});

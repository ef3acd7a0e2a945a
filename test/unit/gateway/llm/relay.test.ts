import { expect, test } from "bun:test";
import { relay } from "../../../../src/gateway/llm/relay.ts";
import { createSpace } from "../../../../src/gateway/space.ts";
import { runId } from "../../../../src/ids.ts";

test("an answer whose caller has gone before any of it is passed on is settled, whether anybody takes it or not", () => {
  const abort = new AbortController();
  abort.abort();
  const told: unknown[] = [];
  relay({
    answer: new Response("{}"),
    isStream: false,
    usage: { event() {}, whole() {}, done() {}, told: () => null },
    isExtra: null,
    idleMs: 1000,
    abort,
    onCost: (cost) => told.push(cost),
    onEnd: () => told.push("end"),
    keepBytes: 0,
    share: createSpace({ all: 1, ofRun: 1, sure: 1 }).share(runId.make()),
  });
  expect(told).toEqual(["unknown", "end"]);
});

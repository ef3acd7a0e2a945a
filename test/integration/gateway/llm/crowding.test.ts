import { expect, test } from "bun:test";
import { startLlmLane } from "../../../fixtures/llm-lane.ts";
import { ASK, standIn } from "../../../fixtures/llm-stand-in.ts";
import { until } from "../../../fixtures/until.ts";

const { goRight, goWrong, provider } = standIn();

test("large bodies count until their answers begin: a run can't fill the gateway with what waits", async () => {
  await using lane = startLlmLane(provider);
  goWrong({ kind: "slow", firstByteMs: 600_000 });
  const abort = new AbortController();
  const body = { ...ASK, messages: [{ role: "user", content: "x".repeat(24 * 1024 * 1024) }] };
  const waiting = [1, 2].map(() => lane.post("/v1/messages", body, {}, abort.signal).catch(() => {}));
  await until(() => provider.requests.length === 2);
  expect((await lane.post("/v1/messages", body)).status).toBe(429);
  abort.abort();
  await Promise.all(waiting);
});

test("requests a minute, and requests at once", async () => {
  await using lane = startLlmLane(provider, { grant: { requests_per_minute: 3 } });
  const statuses: number[] = [];
  let last = new Response();
  for (let n = 0; n < 5; n += 1) {
    last = await lane.post("/v1/messages", ASK);
    statuses.push(last.status);
  }
  expect(statuses).toEqual([200, 200, 200, 429, 429]);
  expect(Number(last.headers.get("retry-after"))).toBeWithin(1, 21);
  expect(await last.json()).toMatchObject({ error: { type: "rate_limit_error" } });

  await using crowded = startLlmLane(provider, { parts: { mostAtOnce: 5 } });
  goWrong({ kind: "stall", afterEvents: 1 });
  const abort = new AbortController();
  const open = Array.from({ length: 5 }, () =>
    crowded.post("/v1/messages", { ...ASK, stream: true }, {}, abort.signal).catch(() => null),
  );
  await Promise.all(open);
  const one = await crowded.post("/v1/messages", ASK);
  expect(one.status).toBe(429);
  abort.abort();
  goRight();
  // Those who left have given their places back.
  await until(async () => (await crowded.post("/v1/messages", ASK)).status === 200);
});

import { expect, test } from "bun:test";
import { once } from "node:events";
import net from "node:net";
import { openJournal } from "../../../../src/gateway/journal.ts";
import { createLog } from "../../../../src/log.ts";
import { startLlmLane } from "../../../fixtures/llm-lane.ts";
import { ASK, standIn } from "../../../fixtures/llm-stand-in.ts";
import { until } from "../../../fixtures/until.ts";

const { goWrong, provider } = standIn();

test("a caller that leaves in the middle of its body leaves nothing behind, and no error in the log", async () => {
  await using lane = startLlmLane(provider, { parts: { mostAtOnce: 1 } });
  const socket = net.connect(Number(new URL(lane.url).port), "127.0.0.1");
  // Before any other: else it may be the one that is refused.
  await once(socket, "connect");
  socket.write("POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{");
  const status = async () => {
    const answer = await lane.post("/v1/messages", ASK);
    await answer.text();
    return answer.status;
  };
  await until(async () => (await status()) === 429);
  socket.destroy();
  await until(async () => (await status()) === 200);
  expect(lane.logged).toEqual([]);
});

test("the end of a run ends its requests, and refuses new ones", async () => {
  await using lane = startLlmLane(provider);
  goWrong({ kind: "stall", afterEvents: 5 });
  const answer = await lane.post("/v1/messages", { ...ASK, stream: true });
  const text = answer.text().catch(() => "broken");
  lane.abort.abort();
  expect(await text).toBe("broken");
  expect(await lane.records()).toHaveLength(1);
  expect((await lane.post("/v1/messages", ASK)).status).toBe(403);
});

test("a gateway that is killed in the middle: what was under way counts in full", async () => {
  await using lane = startLlmLane(provider, { grant: { max_usd_nano: 1_000_000_000 } });
  await (await lane.post("/v1/messages", ASK)).text();
  goWrong({ kind: "stall", afterEvents: 3 });
  await lane.post("/v1/messages", { ...ASK, stream: true });
  const [settled] = await lane.records();
  // As a new gateway finds it: the file, and nothing else.
  const again = openJournal({ path: lane.path, run: lane.run, log: createLog("gateway", () => {}) });
  const records = (await again.recordsAfter(0, 1e9)).filter((record) => record.kind === "llm");
  expect(records).toMatchObject([settled!, { status: null, output_tokens: 1000, estimated: true }]);
  const reserved = records[1]?.usd_nano ?? 0;
  expect(reserved).toBeGreaterThanOrEqual(1000 * 10_000);
  expect(again.spent(settled!.credential)).toMatchObject({
    requests: 2,
    usd_nano: settled!.usd_nano + reserved,
  });
  again.close();
});

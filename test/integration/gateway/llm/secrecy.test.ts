import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { startLlmLane } from "../../../fixtures/llm-lane.ts";
import { ASK, standIn } from "../../../fixtures/llm-stand-in.ts";
import { startProvider } from "../../../fixtures/provider.ts";

const { goWrong, provider } = standIn();

test("the credential is in no answer, log, error or record, even when the provider says it back", async () => {
  await using lane = startLlmLane(provider, { grant: { record_content: true }, baseUrl: provider.url });
  // It takes another key, and names the one that it was shown.
  const other = startProvider({ key: "another" });
  await using refused = startLlmLane({ ...other, key: provider.key }, { baseUrl: other.url });
  const texts: string[] = [];
  for (const [at, status] of [
    [lane, 200],
    [refused, 502],
  ] as const) {
    const answer = await at.post("/v1/messages", ASK);
    expect(answer.status).toBe(status);
    texts.push(await answer.text(), JSON.stringify([...answer.headers]));
  }
  goWrong({
    kind: "status",
    status: 400,
    body: `{"error":"you sent ${provider.key}"}`,
    headers: { "content-type": "application/json" },
  });
  const echoed = await lane.post("/v1/messages", ASK);
  expect(echoed.status).toBe(400);
  texts.push(await echoed.text(), ...lane.logged, ...refused.logged);
  texts.push(readFileSync(lane.path, "utf8"), readFileSync(refused.path, "utf8"));
  expect(texts.join("\n")).not.toContain(provider.key);
  expect(provider.requests[0]?.headers["x-api-key"]).toBe(provider.key);
  await other.stop();
});

test("what is said is recorded only where a workspace wants that", async () => {
  await using without = startLlmLane(provider);
  await using with_ = startLlmLane(provider, { grant: { record_content: true } });
  for (const lane of [without, with_])
    await (await lane.post("/v1/messages", { ...ASK, stream: true })).text();
  expect(await without.records()).toMatchObject([{ content: null }]);
  const [record] = await with_.records();
  expect(record?.content?.request).toContain("hello");
  expect(record?.content?.answer).toContain("stand-in");
  expect(readFileSync(without.path, "utf8")).not.toContain("hello");
});

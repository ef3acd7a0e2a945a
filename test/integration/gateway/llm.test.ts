import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { once } from "node:events";
import net from "node:net";
import { openJournal } from "../../../src/gateway/journal.ts";
import { createLog } from "../../../src/log.ts";
import { freePort } from "../../fixtures/free-port.ts";
import { startLlmLane, type LlmLaneOptions } from "../../fixtures/llm-lane.ts";
import { startProvider, type Fault } from "../../fixtures/provider.ts";
import { until } from "../../fixtures/until.ts";

const provider = startProvider();
const usual = provider.behaviour.script;
afterAll(() => provider.stop());
beforeEach(() => {
  provider.requests.length = 0;
  provider.behaviour.script = usual;
});

const model = "claude-sonnet-5-5";
const ask = { model, max_tokens: 1000, messages: [{ role: "user", content: "hello" }] };
const askResponses = { model: "gpt-6.2-sol", input: "hello" };
const goWrong = (fault: Fault) => {
  provider.behaviour.script = () => ({ text: "one two three four", fault });
};
/** Each test shortens what is to pass. */
const patient = { connectMs: 20_000, firstByteMs: 20_000, idleMs: 20_000 };
/** Reads how an answer begins, lets `cut` come, and reads on to where it breaks. */
async function readTillCut(answer: Response, cut: PromiseWithResolvers<void>): Promise<void> {
  const reader = answer.body!.getReader();
  expect((await reader.read()).done).toBe(false);
  cut.resolve();
  const rest = async () => {
    while (!(await reader.read()).done);
    return "whole";
  };
  expect(await rest().catch(() => "broken")).toBe("broken");
}

describe("routes", () => {
  const cases: [method: string, path: string, status: number][] = [
    ["HEAD", "/", 200],
    ["POST", "/v1/messages/batches", 404],
    ["GET", "/v1/messages/batches", 404],
    ["GET", "/v1/files", 404],
    ["POST", "/v1/files", 404],
    ["GET", "/v1/organizations/usage", 404],
    ["DELETE", "/v1/models/x", 404],
    ["GET", "/v1/responses/resp_1", 404],
    ["POST", "/v1/responses/compact", 404],
    ["POST", "/v1/embeddings", 404],
    ["POST", "/v1/completions", 404],
    ["POST", "/v1//messages", 404],
    ["POST", "/v1/messages/", 404],
    ["POST", "/v1/Messages", 404],
    ["POST", "/v1/%6dessages", 404],
  ];
  test.each(cases)("%s %s: %d, and nothing reaches the provider", async (method, path, status) => {
    await using lane = startLlmLane(provider);
    const answer = await fetch(lane.url + path, {
      method,
      body: method === "POST" ? JSON.stringify(ask) : null,
    });
    expect(answer.status).toBe(status);
    expect(provider.requests).toHaveLength(0);
  });

  test("a WebSocket gets 426, after which Codex asks by HTTP", async () => {
    await using lane = startLlmLane(provider);
    const answer = await fetch(`${lane.url}/v1/responses`, {
      headers: { connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13" },
    });
    expect(answer.status).toBe(426);
    expect(await answer.json()).toMatchObject({ error: { type: "invalid_request_error" } });
  });

  test("a run without a credential of that kind gets 403; of the other, an answer", async () => {
    await using lane = startLlmLane(provider, { dialects: ["openai"] });
    const refused = await lane.post("/v1/messages", ask);
    expect(refused.status).toBe(403);
    expect(await refused.json()).toMatchObject({ type: "error", error: { type: "permission_error" } });
    expect(lane.denials).toMatchObject([{ lane: "llm", reason: "lane" }]);
    expect((await lane.post("/v1/responses", askResponses)).status).toBe(200);
  });

  test("all models are the provider's own list", async () => {
    await using lane = startLlmLane(provider, { dialects: ["openai"] });
    const list = (await (await fetch(`${lane.url}/v1/models`)).json()) as { data: { id: string }[] };
    expect(list.data.map(({ id }) => id)).toEqual(["model-a", "model-b"]);
  });
});

test("a caller that leaves in the middle of its body leaves nothing behind, and no error in the log", async () => {
  await using lane = startLlmLane(provider, { parts: { mostAtOnce: 1 } });
  const socket = net.connect(Number(new URL(lane.url).port), "127.0.0.1");
  // Before any other: else it may be the one that is refused.
  await once(socket, "connect");
  socket.write("POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{");
  const status = async () => {
    const answer = await lane.post("/v1/messages", ask);
    await answer.text();
    return answer.status;
  };
  await until(async () => (await status()) === 429);
  socket.destroy();
  await until(async () => (await status()) === 200);
  expect(lane.logged).toEqual([]);
});

describe("what is passed on", () => {
  test("the body, byte for byte, and the answer's events, byte for byte", async () => {
    await using lane = startLlmLane(provider);
    const body = `{"stream":true, "max_tokens":1000,"big":12345678901234567890,"float":1.0,"unknown":{"a":[1,2]},"model":"${model}","messages":[{"role":"user","content":"\\u00fc \\ud83d\\ude00"}]}`;
    const answer = await lane.post("/v1/messages", body);
    const text = await answer.text();
    expect(provider.requests[0]?.text).toBe(body);
    expect(answer.headers.get("anthropic-ratelimit-requests-remaining")).toBe("99");
    const direct = await fetch(`${provider.url}/v1/messages`, {
      method: "POST",
      headers: { "x-api-key": provider.key },
      body,
    });
    const withoutIds = (events: string) => events.replaceAll(/msg_[0-9a-f]+/g, "msg");
    expect(withoutIds(text)).toBe(withoutIds(await direct.text()));
  });

  test("each event at once, while the provider is still thinking", async () => {
    await using lane = startLlmLane(provider);
    goWrong({ kind: "stall", afterEvents: 4 });
    const answer = await lane.post("/v1/messages", { ...ask, stream: true });
    const reader = answer.body!.getReader();
    let text = "";
    while (!text.includes("one ")) text += new TextDecoder().decode((await reader.read()).value);
    await reader.cancel();
  });

  test("a stream of chat whose events the network has cut anywhere, without the one that only we asked for", async () => {
    const events = ["a", "b"].map(
      (content) => `data: {"choices":[{"delta":{"content":"${content}é"}}],"usage":null}\r\n\r\n`,
    );
    const extra = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\r\n\r\n';
    const bytes = Buffer.from(`${events.join("")}${extra}data: [DONE]\r\n\r\n`);
    using server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch: () =>
        new Response(
          (async function* () {
            for (const byte of bytes) {
              yield Buffer.of(byte);
              await Bun.sleep(0);
            }
          })() as unknown as ReadableStream,
          { headers: { "content-type": "text/event-stream" } },
        ),
    });
    await using lane = startLlmLane(provider, { baseUrl: `http://127.0.0.1:${server.port}` });
    const answer = await lane.post("/v1/chat/completions", { model: "gpt-5", messages: [], stream: true });
    expect(await answer.text()).toBe(`${events.join("")}data: [DONE]\r\n\r\n`);
    expect(await lane.records()).toMatchObject([{ input_tokens: 3, output_tokens: 4, estimated: false }]);
  });
});

describe("bodies that two readers could take for two things", () => {
  const good = JSON.stringify(ask);
  const cases: [what: string, body: string | Uint8Array, words: string][] = [
    ["model twice", good.replace("{", `{"model":"claude-opus-5",`), 'has the key "model" twice'],
    [
      "model twice, one escaped",
      good.replace("{", `{"mod\\u0065l":"claude-opus-5",`),
      'has the key "model" twice',
    ],
    ["Model beside model", good.replace("{", `{"Model":"claude-opus-5",`), "is spelled"],
    ["tools in capitals", good.replace("{", `{"TOOLS":[{"type":"web_search_20250305"}],`), "is spelled"],
    ["messages with a long s", good.replace("{", `{"me\u017f\u017fages":[],`), "is spelled"],
    ["max_tokens with a Kelvin sign", good.replace("{", `{"max_to\u212aens":9,`), "is spelled"],
    ["max_tokens twice", good.replace("{", `{"max_tokens":1,`), 'has the key "max_tokens" twice'],
    [
      "a type twice, deep inside",
      good.replace('"hello"', `[{"type":"text","type":"image"}]`),
      'the key "type" twice',
    ],
    ["a list", "[]", "not a JSON object"],
    ["no JSON", "{", "is not JSON"],
    ["a mark before it", `\uFEFF${good}`, "is not JSON"],
    ["no UTF-8", Buffer.concat([Buffer.from(good), Buffer.of(0xff)]), "is not JSON"],
    ["too deep", good.replace('"hello"', "[".repeat(200) + "]".repeat(200)), "deep"],
    ["far too deep", "[".repeat(200_000), "is not JSON"],
    ["no model", '{"max_tokens":1}', "names no model"],
    ["a model that is none", '{"model":["claude-sonnet-5-5"]}', "names no model"],
    ["stream that is no flag", good.replace("{", '{"stream":"yes",'), "stream"],
    ["max_tokens below zero", good.replace("1000", "-1"), "max_tokens"],
    ["max_tokens without end", good.replace("1000", "1e30"), "max_tokens"],
  ];
  test.each(cases)("%s", async (_, body, words) => {
    await using lane = startLlmLane(provider, { grant: { models: [model] } });
    const answer = await lane.post("/v1/messages", body);
    expect(answer.status).toBe(400);
    expect(((await answer.json()) as { error: { message: string } }).error.message).toContain(words);
    expect(provider.requests).toHaveLength(0);
    // The control: it is only that which is refused.
    expect((await lane.post("/v1/messages", good)).status).toBe(200);
  });

  test("a body that is packed, and one that is too large", async () => {
    await using lane = startLlmLane(provider);
    const packed = await lane.post("/v1/messages", Bun.gzipSync(good), { "content-encoding": "gzip" });
    expect(packed.status).toBe(400);
    const large = await lane.post("/v1/messages", " ".repeat(33 * 1024 * 1024));
    expect(large.status).toBe(413);
    expect(provider.requests).toHaveLength(0);
  });
});

test("large bodies count until their answers begin: a run can't fill the gateway with what waits", async () => {
  await using lane = startLlmLane(provider);
  goWrong({ kind: "slow", firstByteMs: 600_000 });
  const abort = new AbortController();
  const body = { ...ask, messages: [{ role: "user", content: "x".repeat(24 * 1024 * 1024) }] };
  const waiting = [1, 2].map(() => lane.post("/v1/messages", body, {}, abort.signal).catch(() => {}));
  await until(() => provider.requests.length === 2);
  expect((await lane.post("/v1/messages", body)).status).toBe(429);
  abort.abort();
  await Promise.all(waiting);
});

describe("a provider that fails", () => {
  const post = (lane: ReturnType<typeof startLlmLane>, over = {}) =>
    lane.post("/v1/messages", { ...ask, ...over });
  const cases: [what: string, options: LlmLaneOptions, status: number, words: string][] = [
    ["refuses the connection", { baseUrl: `http://127.0.0.1:${freePort()}` }, 502, "refused the connection"],
    ["lies where the operator allows nothing", { allowPrivate: [] }, 502, "a loopback address"],
    ["has a public address and no TLS", { baseUrl: "http://1.1.1.1" }, 502, "in the clear"],
    ["has one in another guise, and no TLS", { baseUrl: "http://[64:ff9b::101:101]" }, 502, "in the clear"],
    ["is a name that is none", { baseUrl: "https://provider.test" }, 502, "no address in DNS"],
  ];
  test.each(cases)("%s", async (_, options, status, words) => {
    await using lane = startLlmLane(provider, { ...options, parts: { timeouts: patient } });
    const answer = await post(lane);
    expect(answer.status).toBe(status);
    const body = (await answer.json()) as { type: string; error: { message: string } };
    expect(body).toMatchObject({ type: "error", error: { type: "api_error" } });
    expect(body.error.message).toContain(words);
    // It was never sent, so it has cost nothing.
    expect(await lane.records()).toMatchObject([{ status: null, usd_nano: 0, estimated: false }]);
  });

  test("fails, and never comes to the end of saying why", async () => {
    using server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      idleTimeout: 0,
      development: false,
      fetch: () =>
        new Response(new ReadableStream({ start: (c) => c.enqueue(Buffer.from("{")) }), { status: 500 }),
    });
    await using lane = startLlmLane(provider, {
      baseUrl: `http://127.0.0.1:${server.port}`,
      parts: { timeouts: { ...patient, idleMs: 300 } },
    });
    const answer = await post(lane);
    expect([answer.status, await answer.text()]).toEqual([500, expect.stringContaining("answered with 500")]);
    expect(await lane.records()).toMatchObject([{ status: 500, usd_nano: 0 }]);
  });

  test("takes no connection, and begins no answer", async () => {
    // Accepts, and never says a word of TLS.
    const mute = net.createServer();
    await new Promise<void>((resolve) => mute.listen(0, "127.0.0.1", resolve));
    const { port } = mute.address() as net.AddressInfo;
    await using unconnected = startLlmLane(provider, {
      baseUrl: `https://127.0.0.1:${port}`,
      parts: { timeouts: { ...patient, connectMs: 300 } },
    });
    const first = await post(unconnected);
    expect(first.status).toBe(502);
    expect(await first.text()).toContain("could not be connected to within 0.3 s");
    expect(await unconnected.records()).toMatchObject([{ usd_nano: 0, estimated: false }]);

    await using silent = startLlmLane(provider, {
      baseUrl: `http://127.0.0.1:${port}`,
      parts: { timeouts: { ...patient, firstByteMs: 300 } },
    });
    const second = await post(silent);
    expect(second.status).toBe(504);
    expect(await second.text()).toContain("did not begin an answer within 0.3 s");
    // It may have cost all that was reserved.
    const [record] = await silent.records();
    expect(record).toMatchObject({ status: null, output_tokens: 1000, estimated: true });
    expect(record?.usd_nano).toBeGreaterThanOrEqual(1000 * 10_000);
    mute.close();
  });

  test("is slow but in time", async () => {
    await using lane = startLlmLane(provider, { parts: { timeouts: { ...patient, idleMs: 100 } } });
    goWrong({ kind: "slow", firstByteMs: 200 });
    expect((await post(lane)).status).toBe(200);
  });

  /** The input was told at the start. */
  const cutShort = { status: 200, input_tokens: 25, output_tokens: 1000, estimated: true };

  test("breaks off in the middle: so does the answer, and what may have been made counts", async () => {
    await using lane = startLlmLane(provider, { parts: { timeouts: patient } });
    const cut = Promise.withResolvers<void>();
    goWrong({ kind: "cut", afterEvents: 5, when: cut.promise });
    const answer = await post(lane, { stream: true });
    expect(answer.status).toBe(200);
    await readTillCut(answer, cut);
    expect(await lane.records()).toMatchObject([cutShort]);
  });

  test("falls silent in the middle: so does the answer, and what may have been made counts", async () => {
    await using lane = startLlmLane(provider, { parts: { timeouts: { ...patient, idleMs: 300 } } });
    goWrong({ kind: "stall", afterEvents: 5 });
    const answer = await post(lane, { stream: true });
    expect(answer.status).toBe(200);
    expect(await answer.text().catch(() => "broken")).toBe("broken");
    expect(await lane.records()).toMatchObject([cutShort]);
  });

  test("breaks off soon: no model makes all that it was let in that time", async () => {
    await using lane = startLlmLane(provider, { grant: { max_usd_nano: 5_000_000_000 } });
    const cuts = [Promise.withResolvers<void>(), Promise.withResolvers<void>()] as const;
    goWrong({ kind: "cut", afterEvents: 5, when: cuts[0].promise });
    await readTillCut(await post(lane, { stream: true, max_tokens: 128_000 }), cuts[0]);
    goWrong({ kind: "cut", afterEvents: 5, when: cuts[1].promise });
    const chat = { model: "gpt-6.2-sol", messages: [], max_tokens: 100_000, stream: true };
    await readTillCut(await lane.post("/v1/chat/completions", chat), cuts[1]);
    const records = await lane.records();
    expect(records.map(({ estimated }) => estimated)).toEqual([true, true]);
    for (const { output_tokens, usd_nano } of records) {
      expect(output_tokens).toBeWithin(2000, 100_000);
      expect(usd_nano).toBeWithin(output_tokens * 10_000, output_tokens * 10_000 + 1_000_000);
    }
  });

  test("says so in its own words, which are passed on; an error costs nothing", async () => {
    await using lane = startLlmLane(provider);
    for (const status of [400, 429, 500, 529]) {
      goWrong({ kind: "status", status, headers: { "retry-after": "7", "x-should-retry": "true" } });
      const answer = await post(lane);
      expect(answer.status).toBe(status);
      expect(answer.headers.get("retry-after")).toBe("7");
      expect(answer.headers.get("x-should-retry")).toBe("true");
      expect(await answer.text()).toContain("as the test wants it");
    }
    expect((await lane.records()).map(({ status, usd_nano }) => [status, usd_nano])).toEqual(
      [400, 429, 500, 529].map((status) => [status, 0]),
    );
  });

  test("answers in HTML: the caller gets JSON", async () => {
    await using lane = startLlmLane(provider);
    const html = "<html>502 Bad Gateway</html>";
    goWrong({ kind: "status", status: 502, body: html, headers: { "content-type": "text/html" } });
    const answer = await post(lane);
    expect(answer.status).toBe(502);
    expect(answer.headers.get("content-type")).toContain("application/json");
    expect(await answer.json()).toMatchObject({ type: "error", error: { type: "api_error" } });
  });

  test("sends elsewhere: nobody follows", async () => {
    await using lane = startLlmLane(provider);
    goWrong({ kind: "status", status: 307, body: "", headers: { location: `${provider.url}/v1/models` } });
    const answer = await post(lane);
    expect(answer.status).toBe(502);
    expect(answer.headers.has("location")).toBe(false);
    expect(provider.requests).toHaveLength(1);
  });
});

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
    const answer = await at.post("/v1/messages", ask);
    expect(answer.status).toBe(status);
    texts.push(await answer.text(), JSON.stringify([...answer.headers]));
  }
  goWrong({
    kind: "status",
    status: 400,
    body: `{"error":"you sent ${provider.key}"}`,
    headers: { "content-type": "application/json" },
  });
  const echoed = await lane.post("/v1/messages", ask);
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
    await (await lane.post("/v1/messages", { ...ask, stream: true })).text();
  expect(await without.records()).toMatchObject([{ content: null }]);
  const [record] = await with_.records();
  expect(record?.content?.request).toContain("hello");
  expect(record?.content?.answer).toContain("stand-in");
  expect(readFileSync(without.path, "utf8")).not.toContain("hello");
});

test("the end of a run ends its requests, and refuses new ones", async () => {
  await using lane = startLlmLane(provider);
  goWrong({ kind: "stall", afterEvents: 5 });
  const answer = await lane.post("/v1/messages", { ...ask, stream: true });
  const text = answer.text().catch(() => "broken");
  lane.abort.abort();
  expect(await text).toBe("broken");
  expect(await lane.records()).toHaveLength(1);
  expect((await lane.post("/v1/messages", ask)).status).toBe(403);
});

test("requests a minute, and requests at once", async () => {
  await using lane = startLlmLane(provider, { grant: { requests_per_minute: 3 } });
  const statuses: number[] = [];
  let last = new Response();
  for (let n = 0; n < 5; n += 1) {
    last = await lane.post("/v1/messages", ask);
    statuses.push(last.status);
  }
  expect(statuses).toEqual([200, 200, 200, 429, 429]);
  expect(Number(last.headers.get("retry-after"))).toBeWithin(1, 21);
  expect(await last.json()).toMatchObject({ error: { type: "rate_limit_error" } });

  await using crowded = startLlmLane(provider, { parts: { mostAtOnce: 5 } });
  goWrong({ kind: "stall", afterEvents: 1 });
  const abort = new AbortController();
  const open = Array.from({ length: 5 }, () =>
    crowded.post("/v1/messages", { ...ask, stream: true }, {}, abort.signal).catch(() => null),
  );
  await Promise.all(open);
  const one = await crowded.post("/v1/messages", ask);
  expect(one.status).toBe(429);
  abort.abort();
  provider.behaviour.script = usual;
  // Those who left have given their places back.
  await until(async () => (await crowded.post("/v1/messages", ask)).status === 200);
});

test("a gateway that is killed in the middle: what was under way counts in full", async () => {
  await using lane = startLlmLane(provider, { grant: { max_usd_nano: 1_000_000_000 } });
  await (await lane.post("/v1/messages", ask)).text();
  goWrong({ kind: "stall", afterEvents: 3 });
  await lane.post("/v1/messages", { ...ask, stream: true });
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

import { describe, expect, test } from "bun:test";
import net from "node:net";
import { freePort } from "../../../fixtures/free-port.ts";
import { startLlmLane, type LlmLaneOptions } from "../../../fixtures/llm-lane.ts";
import { ASK, PATIENT, standIn } from "../../../fixtures/llm-stand-in.ts";

const { goWrong, provider } = standIn();

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

describe("a provider that fails", () => {
  const post = (lane: ReturnType<typeof startLlmLane>, over = {}) =>
    lane.post("/v1/messages", { ...ASK, ...over });
  const cases: [what: string, options: LlmLaneOptions, status: number, words: string][] = [
    ["refuses the connection", { baseUrl: `http://127.0.0.1:${freePort()}` }, 502, "refused the connection"],
    ["lies where the operator allows nothing", { allowPrivate: [] }, 502, "a loopback address"],
    ["has a public address and no TLS", { baseUrl: "http://1.1.1.1" }, 502, "in the clear"],
    ["has one in another guise, and no TLS", { baseUrl: "http://[64:ff9b::101:101]" }, 502, "in the clear"],
    ["is a name that is none", { baseUrl: "https://provider.test" }, 502, "no address in DNS"],
  ];
  test.each(cases)("%s", async (_, options, status, words) => {
    await using lane = startLlmLane(provider, { ...options, parts: { timeouts: PATIENT } });
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
      parts: { timeouts: { ...PATIENT, idleMs: 300 } },
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
      parts: { timeouts: { ...PATIENT, connectMs: 300 } },
    });
    const first = await post(unconnected);
    expect(first.status).toBe(502);
    expect(await first.text()).toContain("could not be connected to within 0.3 s");
    expect(await unconnected.records()).toMatchObject([{ usd_nano: 0, estimated: false }]);

    await using silent = startLlmLane(provider, {
      baseUrl: `http://127.0.0.1:${port}`,
      parts: { timeouts: { ...PATIENT, firstByteMs: 300 } },
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
    await using lane = startLlmLane(provider, { parts: { timeouts: { ...PATIENT, idleMs: 100 } } });
    goWrong({ kind: "slow", firstByteMs: 200 });
    expect((await post(lane)).status).toBe(200);
  });

  /** The input was told at the start. */
  const cutShort = { status: 200, input_tokens: 25, output_tokens: 1000, estimated: true };

  test("breaks off in the middle: so does the answer, and what may have been made counts", async () => {
    await using lane = startLlmLane(provider, { parts: { timeouts: PATIENT } });
    const cut = Promise.withResolvers<void>();
    goWrong({ kind: "cut", afterEvents: 5, when: cut.promise });
    const answer = await post(lane, { stream: true });
    expect(answer.status).toBe(200);
    await readTillCut(answer, cut);
    expect(await lane.records()).toMatchObject([cutShort]);
  });

  test("falls silent in the middle: so does the answer, and what may have been made counts", async () => {
    await using lane = startLlmLane(provider, { parts: { timeouts: { ...PATIENT, idleMs: 300 } } });
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

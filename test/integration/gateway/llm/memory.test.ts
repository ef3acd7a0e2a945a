import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { runId } from "../../../../src/ids.ts";
import type { SpaceLimits } from "../../../../src/gateway/space.ts";
import { startLlmLane } from "../../../fixtures/llm-lane.ts";
import type { LlmProcess } from "../../../fixtures/llm-process.ts";
import { startProvider, type Provider } from "../../../fixtures/provider.ts";
import { scratchDirectory } from "../../../fixtures/scratch.ts";

const MIB = 1024 * 1024;

let provider: Provider;
beforeAll(() => {
  provider = startProvider();
});
afterAll(() => provider.stop());

const asked = (stream: boolean) => ({
  model: "claude-sonnet-5",
  max_tokens: 100,
  stream,
  messages: [{ role: "user", content: "x" }],
});
const usage = { input: 11, output: 15 };

/** From now on every answer is too long by so much, until the promise that is given back is kept. */
function makeLarge(bytes: number) {
  const { promise: end, resolve } = Promise.withResolvers<void>();
  provider.behaviour.script = ({ json }) => ({
    text: "x",
    usage,
    ...(json.model === "small" ? {} : { fault: { kind: "large", bytes, end } }),
  });
  return resolve;
}

/** Reads an answer to its end, and tells when so much of it has come. */
async function reading(answer: Response, bytes: number, onCome: () => void): Promise<number> {
  let size = 0;
  for await (const piece of answer.body ?? []) {
    if (size < bytes && size + piece.length >= bytes) onCome();
    size += piece.length;
  }
  return size;
}

/** What the gateway's process holds more while so many large answers are nearly there, and what another run is told meanwhile. */
async function held(stream: boolean, answers?: SpaceLimits) {
  using scratch = scratchDirectory();
  const { url, openaiUrl, key } = provider;
  const given: LlmProcess = {
    url,
    openaiUrl,
    key,
    path: join(scratch.path, "run.jsonl"),
    run: runId.make(),
    grant: {},
    ...(answers === undefined ? {} : { parts: { answers } }),
  };
  const main = join(import.meta.dir, "../../../fixtures/llm-process.ts");
  const child = Bun.spawn([process.execPath, main, JSON.stringify(given)], {
    stdout: "pipe",
    stderr: "inherit",
  });
  try {
    const reader = child.stdout.getReader();
    const line = async () => new TextDecoder().decode((await reader.read()).value).trim();
    const memory = async () => {
      child.kill("SIGUSR2");
      return Number(await line());
    };
    const [mine = "", others = ""] = (await line()).split(" ");
    const post = async (at: string, body: object) =>
      fetch(`${at}/v1/messages`, { method: "POST", body: JSON.stringify(body) });
    await (await post(mine, { ...asked(stream), model: "small" })).text();
    const before = await memory();
    const end = makeLarge(EACH);
    // All are asked for before the first has come, as far as this run may.
    const asks = await Promise.all(Array.from({ length: MANY }, () => post(mine, asked(stream))));
    const come = asks.map(() => Promise.withResolvers<void>());
    const sizes = asks.map((answer, at) => reading(answer, EACH, () => come[at]?.resolve()));
    await Promise.all(come.map(({ promise }) => promise));
    const bytes = (await memory()) - before;
    const neighbour = await post(others, { ...asked(stream), model: "small" });
    const more = await post(mine, asked(stream));
    const refused = more.status === 200 ? null : await more.json();
    end();
    if (more.status === 200) await more.text();
    const told = (await neighbour.text()).length > 0;
    const read = await Promise.all(sizes);
    return {
      bytes,
      neighbour: [neighbour.status, told],
      more: more.status,
      refused,
      read,
      left: (await memory()) - before,
    };
  } finally {
    child.kill("SIGKILL");
    await child.exited;
  }
}

const MANY = 24;
const EACH = 8 * MIB;

describe.each([
  ["answers", false],
  ["events", true],
] as const)("huge %s, many at once", (_, stream) => {
  test("the gateway holds so much of them, passes on all, and goes on for others", async () => {
    const { bytes, neighbour, more, refused, read, left } = await held(stream);
    // 64 of one run, and a piece of each on its way.
    expect(bytes).toBeLessThan(90 * MIB);
    expect(left).toBeLessThan(16 * MIB);
    expect(neighbour).toEqual([200, true]);
    expect([more, refused]).toMatchObject([503, { type: "error", error: { type: "overloaded_error" } }]);
    expect(Math.min(...read)).toBeGreaterThan(EACH);
  });

  test("without the bound it would hold all 192 MiB", async () => {
    const all = 2 ** 40;
    const { bytes, more } = await held(stream, { all, ofRun: all, sure: all });
    expect(bytes).toBeGreaterThan(180 * MIB);
    expect(more).toBe(200);
  });
});

test("what there is no room for passes as it came, costs the most it could, and leaves room to others", async () => {
  const answers = { all: 3 * MIB, ofRun: 2 * MIB, sure: MIB };
  await using lane = startLlmLane(provider, { parts: { answers } });
  for (const stream of [false, true]) {
    for (const route of ["/v1/messages", "/v1/chat/completions"]) {
      const told = async (bytes: number) => {
        const end = makeLarge(bytes);
        end();
        const text = await (await lane.post(route, asked(stream))).text();
        expect(text.length).toBeGreaterThan(bytes);
        // No byte is missing, and the event that only we asked for is not there.
        const events = text.split("\n\n").filter((one) => one.startsWith("data: {"));
        if (stream) for (const one of events) JSON.parse(one.slice("data: ".length));
        else JSON.parse(text);
        expect([stream, route, text.includes('"choices":[],')]).toEqual([stream, route, false]);
        const record = (await lane.records()).at(-1);
        return [record?.estimated, record?.output_tokens];
      };
      expect([stream, route, await told(MIB)]).toEqual([stream, route, [false, 15]]);
      // Of a stream only the event that was too large was not read.
      const large = stream ? [false, 15] : [true, 100];
      expect([stream, route, await told(4 * MIB)]).toEqual([stream, route, large]);
    }
  }
});

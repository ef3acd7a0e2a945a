import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { commandScript, startProvider } from "../fixtures/provider.ts";
import { EMPTY, runCalls } from "../fixtures/run-calls.ts";
import { until } from "../fixtures/until.ts";

const KEY = "sk-real-0123456789-nobody-in-a-run-sees-this";
const provider = startProvider({ key: KEY });
const usual = provider.behaviour.script;

let appliance: Appliance;
const { startRun, over, outputOf, makeCredential } = runCalls(() => appliance, EMPTY);
beforeAll(async () => {
  appliance = await startAppliance({
    config: '[exec]\npool = 0\n\n[providers]\nallow_private = ["127.0.0.0/8"]\n',
  });
  await makeCredential({ name: "anthropic", kind: "anthropic", secret: KEY, base_url: provider.url });
  await makeCredential({ name: "openai", kind: "openai", secret: KEY, base_url: provider.openaiUrl });
});
afterAll(async () => {
  await appliance.stop();
  await provider.stop();
});

async function run(body: object) {
  const id = await startRun(body);
  const shown = await over(id);
  return { shown, output: await outputOf(id) };
}

const SONNET = "claude-sonnet-5-5";
const GRANTS = [
  { credential: "anthropic", models: [SONNET], max_usd: 2.5 },
  { credential: "openai", models: ["gpt-6.2-sol"] },
];
const body = (over: object = {}) =>
  `'${JSON.stringify({ model: SONNET, max_tokens: 100, messages: [{ role: "user", content: "hi" }], ...over })}'`;
const ask = (more = "", token = "$ANTHROPIC_API_KEY") =>
  `curl -sS -w '\\n%{http_code}\\n' -H "x-api-key: ${token}" "$ANTHROPIC_BASE_URL/v1/messages" ${more}`;

test("a run talks to both kinds of providers, with its token only, and what it took is told", async () => {
  provider.requests.length = 0;
  const { shown, output } = await run({
    llm: GRANTS,
    command: [
      ask(`-N -d ${body({ stream: true })}`),
      `curl -sS "$OPENAI_BASE_URL/responses" -H "authorization: Bearer $OPENAI_API_KEY" -d '{"model":"gpt-6.2-sol","input":"hi"}'`,
      ask(`-d ${body()}`, "sk-ant-wrong"),
      ask(`-d ${body({ model: "claude-opus-5-5" })}`),
      ask(`-d ${body({ tools: [{ type: "web_search_20250305", name: "web_search" }] })}`),
      "env; cat /proc/*/environ 2>/dev/null; true",
    ].join("\n"),
  });
  expect(output).toContain("event: message_stop");
  expect(output).toContain('"object":"response"');
  expect(output.match(/^(200|400|401)$/gm)).toEqual(["200", "401", "400", "400"]);
  expect(output).not.toContain(KEY);
  expect(provider.requests.map(({ path }) => path)).toEqual(["/v1/messages", "/v1/responses"]);
  for (const { headers } of provider.requests) expect(JSON.stringify(headers)).toContain(KEY);
  expect(shown).toMatchObject({ status: "succeeded", usage: { llm: { requests: 2, output_tokens: 24 } } });
  expect(shown.usage.llm.usd).toBeCloseTo((25 * 2 * 2 + 12 * 10 * 2) / 1e6, 9);
  expect(new Set(shown.denials.map(({ reason }) => reason))).toEqual(
    new Set(["token", "model", "provider_tools"]),
  );
  const { workspace_id, admin_key } = appliance.keys;
  const events = await appliance.call(`/v1/workspaces/${workspace_id}/events?type=run.llm`, {
    key: admin_key,
  });
  const text = await events.text();
  expect(text).toContain(SONNET);
  expect(text).not.toContain("stand-in provider");
  expect(readFileSync(`${appliance.data}.log`, "utf8")).not.toContain(KEY);
});

test("a spent budget is told to the run, and is why it ends", async () => {
  provider.behaviour.script = ({ json }) => ({ text: "x", usage: { output: json.max_tokens } });
  const command = `for n in 1 2 3 4; do ${ask(`-f -d ${body({ max_tokens: 300 })}`)} || exit 7; done`;
  const { shown, output } = await run({ llm: { credential: "anthropic", max_usd: 0.0065 }, command });
  provider.behaviour.script = usual;
  expect(output.match(/^\d{3}$/gm)).toEqual(["200", "200", "402"]);
  expect(shown).toMatchObject({
    status: "budget_exhausted",
    exit_code: 7,
    denials: [{ kind: "llm", reason: "budget" }],
  });
  expect(shown.usage.llm.usd).toBeLessThanOrEqual(0.0065);
});

test("a model without a price and a run without a grant", async () => {
  const llm = { credential: "anthropic", models: ["own-model"], max_usd: 1 };
  const refused = await appliance.call("/v1/runs", { json: { command: "true", llm } });
  expect([refused.status, await refused.text()]).toEqual([422, expect.stringContaining("own-model")]);
  const { output } = await run({ command: "env" });
  expect(output).toContain("COFFERDAM_RUN_ID");
  expect(output).not.toMatch(/ANTHROPIC|OPENAI/);
});

test("a gateway that is killed under a stream: the run's next request works, and the lost one counts", async () => {
  provider.requests.length = 0;
  provider.behaviour.script = () => ({ text: "one two", fault: { kind: "stall", afterEvents: 4 } });
  const command = [
    ask(`-N -d ${body({ stream: true, max_tokens: 3000 })}`),
    `until ${ask(`-f -d ${body()}`)}; do sleep 0.2; done`,
  ].join("\n");
  const running = run({ llm: { credential: "anthropic", max_usd: 1 }, command });
  await until(() => provider.requests.length === 1);
  provider.behaviour.script = usual;
  process.kill(appliance.pid("gateway"), "SIGKILL");
  const { shown, output } = await running;
  expect(output).toContain("Hello from the stand-in provider.");
  expect(shown).toMatchObject({ status: "succeeded", usage: { llm: { requests: 2, output_tokens: 3012 } } });
});

test.each([
  ["claude-code", "anthropic", SONNET],
  ["codex", "openai", "gpt-6.2-sol"],
] as const)(
  "%s edits a file, on a budget that it asks for more than",
  async (kind, credential, model) => {
    provider.requests.length = 0;
    provider.behaviour.script = commandScript("echo made by the agent > made.txt", "I am done.");
    const { shown, output } = await run({
      agent: { kind, prompt: "Make made.txt." },
      llm: { credential, models: [model], max_usd: 0.8 },
    });
    provider.behaviour.script = usual;
    expect([shown.status, output]).toEqual(["succeeded", expect.stringContaining("I am done.")]);
    expect(shown).toMatchObject({ denials: [], usage: { llm: { requests: 2, output_tokens: 24 } } });
    const diff = await appliance.call(`/v1/runs/${shown.run_id}/diff`);
    expect(await diff.json()).toMatchObject({
      changes: [{ path: "made.txt", change: "added", patch: expect.stringContaining("+made by the agent") }],
    });
    expect(JSON.stringify(provider.requests)).toContain(KEY);
    expect(output).not.toContain(KEY);
  },
  60_000,
);

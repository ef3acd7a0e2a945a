import { expect, test } from "bun:test";
import { configSchema } from "../../../src/config/schema.ts";
import type { Credential } from "../../../src/credentials/credential.ts";
import { noCredential } from "../../../src/credentials/credential.ts";
import { credentialId, workspaceId } from "../../../src/ids.ts";
import type { VettedAddress } from "../../../src/net/policy.ts";
import { covers, parseAllowed, parseDirect } from "../../../src/runs/hosts.ts";
import { matches, policySchema } from "../../../src/runs/policy.ts";
import { runRequest } from "../../../src/runs/request.ts";
import { createResolver } from "../../../src/runs/resolve.ts";
import { failureOf } from "../../fixtures/failure.ts";

const workspace = workspaceId.make();
const credential = (
  name: string,
  kind: Credential["kind"],
  settings: Credential["settings"] = {},
): Credential => ({
  id: credentialId.make(),
  workspaceId: workspace,
  name,
  kind,
  settings,
  namespaces: null,
  createdAt: 0,
  lastUsedAt: null,
});
const known = [
  credential("claude", "anthropic", { base_url: "https://api.anthropic.com" }),
  credential("gpt", "openai", { base_url: "https://api.openai.com/v1" }),
  credential("forge", "git-token", { git_url: "https://git.example" }),
];
const resolve = createResolver({
  credentials: {
    async named(_workspace, _namespace, name) {
      const found = known.find((one) => one.name === name);
      if (found === undefined) throw noCredential(name);
      return found;
    },
  },
  addresses: {
    judge: (address) =>
      address.startsWith("10.")
        ? { allowed: false, what: "an address of a private network" }
        : { allowed: true, address: address as VettedAddress },
  },
  runs: () => configSchema.parse({}).runs,
  hasPrice: (model) => !model.startsWith("unpriced"),
});
const ask = async (body: object, policy: object = {}) =>
  resolve(
    { workspaceId: workspace, namespace: "alice" },
    runRequest.parse({ command: "true", ...body }),
    policySchema.parse(policy),
  );
const refusal = (body: object, policy: object = {}) => failureOf(ask(body, policy));

test("what is not asked for is not granted, and limits are the appliance's", async () => {
  expect(await ask({})).toEqual({
    grants: { llm: [], git: null, egress: null, direct: [] },
    limits: { timeout_s: 3600, memory_mb: 2560, cpus: 2, pids: 512, disk_mb: 4096 },
  });
});

test("a grant for models carries what the request and the policy say together", async () => {
  const policy = { usd_per_run: 5, requests_per_minute: 30, models: ["claude-*"] };
  const { grants } = await ask({ llm: { credential: "claude", models: ["claude-sonnet-5"] } }, policy);
  expect(grants.llm).toMatchObject([
    {
      dialect: "anthropic",
      base_url: "https://api.anthropic.com",
      models: ["claude-sonnet-5"],
      max_usd_nano: 5_000_000_000,
      requests_per_minute: 30,
      provider_tools: false,
    },
  ]);
  const two = await ask({ llm: [{ credential: "claude" }, { credential: "gpt", max_usd: 0.25 }] });
  expect(two.grants.llm.map(({ dialect, max_usd_nano }) => [dialect, max_usd_nano])).toEqual([
    ["anthropic", null],
    ["openai", 250_000_000],
  ]);
});

test("the dollars of a run are those of all its grants together", async () => {
  const money = async (claude: object, gpt: object) => {
    const llm = [
      { credential: "claude", ...claude },
      { credential: "gpt", ...gpt },
    ];
    return (await ask({ llm }, { usd_per_run: 5 })).grants.llm.map((one) => (one.max_usd_nano ?? 0) / 1e9);
  };
  expect(await money({}, {})).toEqual([2.5, 2.5]);
  expect(await money({ max_usd: 4 }, {})).toEqual([4, 1]);
  expect(await money({ max_usd: 4 }, { max_usd: 1 })).toEqual([4, 1]);
  expect(await money({ max_usd: 5 }, {})).toEqual([5, 0]);
  expect(await failureOf(money({ max_usd: 5 }, { max_usd: 0.1 }))).toContain('"usd_per_run"');
});

test("each thing beyond the policy is refused, naming the field and the ceiling", async () => {
  expect(await refusal({ llm: { credential: "claude", models: ["other"] } }, { models: ["claude-*"] })).toBe(
    'The field "llm.models": "other" is not within the workspace\'s policy ("models").',
  );
  expect(await refusal({ llm: { credential: "claude", max_usd: 6 } }, { usd_per_run: 5 })).toBe(
    'The field "llm.max_usd": 6 is more than the 5 of the workspace\'s policy ("usd_per_run").',
  );
  expect(await refusal({ llm: { credential: "claude", provider_tools: true } })).toContain(
    '"provider_tools"',
  );
  expect(
    await refusal(
      { git: { credential: "forge", repositories: [{ name: "acme/secret" }] } },
      { repositories: ["acme/site"] },
    ),
  ).toContain('"acme/secret" is not within');
  expect(await refusal({ egress: { allow: ["evil.example"] } }, { hosts: ["*.pypi.example"] })).toContain(
    '("hosts")',
  );
  expect(
    await refusal({ egress: { direct: ["203.0.113.7:22"] } }, { direct: ["203.0.113.7:5432"] }),
  ).toContain('("direct")');
  expect(await refusal({ limits: { memory_mb: 4096 } }, { limits: { memory_mb: 1024 } })).toBe(
    'The field "limits.memory_mb": 4096 is more than the 1024 that runs may have here.',
  );
});

test("what can't work is refused at once, saying why", async () => {
  expect(await refusal({ llm: { credential: "nobody" } })).toContain('no credential "nobody"');
  expect(await refusal({ llm: { credential: "forge" } })).toContain("not one for models");
  expect(await refusal({ git: { credential: "claude", repositories: [{ name: "a/b" }] } })).toContain(
    "not one for git",
  );
  expect(await refusal({ llm: { credential: "claude", models: ["unpriced-1"], max_usd: 1 } })).toContain(
    "unpriced-1 has no known price",
  );
  expect(await refusal({ llm: [{ credential: "claude" }, { credential: "claude" }] })).toContain(
    "two grants for anthropic",
  );
  expect(
    await refusal({ git: { credential: "forge", repositories: [{ name: "a/b", access: "write" }] } }),
  ).toContain("which branches may be pushed");
  expect(await refusal({ egress: { direct: ["10.0.0.1:5432"] } })).toContain("private network");
  expect(await refusal({ llm: { credential: "claude" } }, { models: ["claude-*"] })).toContain("say which");
});

test("hosts: a name or those below it, with a port; no address, no shared storage, no whole domain", () => {
  expect(parseAllowed("PyPI.example")).toEqual({ host: "pypi.example", port: 443 });
  expect(parseAllowed("*.example.org:8443")).toEqual({ host: "*.example.org", port: 8443 });
  expect(parseAllowed("example.org.")).toEqual({ host: "example.org", port: 443 });
  for (const bad of [
    "",
    "*",
    "*.com",
    "a..b",
    "10.0.0.1",
    "127.1",
    "0x7f000001",
    "2130706433",
    "[::1]",
    "http://x",
    "x/y",
    "x:0",
    "x:70000",
    "user@x",
    "bucket.s3.amazonaws.com",
    "*.amazonaws.com",
    "storage.googleapis.com",
    "*.googleapis.com",
    "*.core.windows.net",
    "a\nb",
    "ｅxample.org",
  ]) {
    expect(() => parseAllowed(bad)).toThrow();
  }
});

test("a pattern covers its host and those below it, never a look-alike", () => {
  const cover = (ceiling: string, wanted: string) => covers(parseAllowed(ceiling), parseAllowed(wanted));
  expect(cover("*.example.org", "a.example.org")).toBe(true);
  expect(cover("*.example.org", "*.b.example.org")).toBe(true);
  expect(cover("example.org", "example.org")).toBe(true);
  expect(cover("*.example.org", "example.org")).toBe(false);
  expect(cover("*.example.org", "evilexample.org")).toBe(false);
  expect(cover("example.org", "example.org:8443")).toBe(false);
  expect(cover("a.example.org", "*.example.org")).toBe(false);
});

test("addresses for direct: one spelling of IPv4, with a port", () => {
  expect(parseDirect("203.0.113.7:5432")).toEqual({ address: "203.0.113.7", port: 5432 });
  for (const bad of [
    "203.0.113.7",
    "203.0.113.07:1",
    "203.0.113.256:1",
    "x:1",
    "203.0.113.7:0",
    "[::1]:1",
    "1.2.3.4:5:6",
  ])
    expect(() => parseDirect(bad)).toThrow();
});

test("names match whole, or by what they begin with", () => {
  expect(matches(["acme/*"], "acme/site")).toBe(true);
  expect(matches(["acme/site"], "acme/site2")).toBe(false);
  expect(matches([], "x")).toBe(false);
});

test("a body that says something else than it means is refused, naming the field", () => {
  const fieldOf = (body: object) => {
    const issue = runRequest.safeParse(body).error?.issues[0];
    return issue?.code === "unrecognized_keys" ? issue.keys[0] : issue?.path.join(".");
  };
  expect(fieldOf({})).toBe("command");
  expect(fieldOf({ command: "a", agent: { kind: "codex", prompt: "b" } })).toBe("command");
  expect(fieldOf({ command: "a", comand: "b" })).toBe("comand");
  expect(fieldOf({ command: "a", limits: { memory: 1 } })).toBe("memory");
  expect(fieldOf({ command: "a", env: { "A=B": "c" } })).toBe("env.A=B");
  expect(fieldOf({ command: "a", stdin: "x", stdin_open: true })).toBe("stdin");
  expect(fieldOf({ command: "a", llm: { credential: "c", models: [] } })).toContain("llm");
});

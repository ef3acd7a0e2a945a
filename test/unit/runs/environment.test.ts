import { expect, test } from "bun:test";
import { credentialId, runId } from "../../../src/ids.ts";
import { checkEnvironment, environmentOf, type EnvironmentParts } from "../../../src/runs/environment.ts";
import type { RunGrants } from "../../../src/runs/grants.ts";
import { makeLlmGrant } from "../../fixtures/run-grant.ts";

const run = runId.make();
const credential = credentialId.make();
const none: RunGrants = { llm: [], git: null, egress: null, direct: [] };
const of = (grants: Partial<RunGrants>, env: EnvironmentParts["env"] = {}) =>
  environmentOf({
    run,
    host: "10.42.7.1",
    port: 4180,
    token: "sk-ant-0123",
    grants: { ...none, ...grants },
    env,
  });
const llm = (dialect: "anthropic" | "openai"): RunGrants["llm"][number] => {
  const { sealed: _, ...grant } = makeLlmGrant({ credential, dialect });
  return grant;
};

test("without grants there is nothing that looks like a secret, and nothing of this process's", () => {
  expect(of({})).toEqual({
    PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    TERM: "dumb",
    LANG: "C.UTF-8",
    HOME: "/home/agent",
    USER: "agent",
    LOGNAME: "agent",
    SHELL: "/bin/bash",
    COFFERDAM_RUN_ID: run,
  });
});

test("each pair of variables comes with a grant of its kind alone", () => {
  const anthropic = of({ llm: [llm("anthropic")] });
  expect(anthropic).toMatchObject({
    ANTHROPIC_BASE_URL: "http://10.42.7.1:4180",
    ANTHROPIC_API_KEY: "sk-ant-0123",
  });
  expect(anthropic).not.toHaveProperty("OPENAI_API_KEY");
  const openai = of({ llm: [llm("openai")] });
  expect(openai).toMatchObject({
    OPENAI_BASE_URL: "http://10.42.7.1:4180/v1",
    OPENAI_API_KEY: "sk-ant-0123",
  });
  expect(openai).not.toHaveProperty("ANTHROPIC_API_KEY");
});

test("git is rewritten to the gateway, which gets the token in a header", () => {
  const git: RunGrants["git"] = {
    credential,
    kind: "github-app",
    git_url: "https://github.com",
    api_url: "https://api.github.com",
    repositories: [],
  };
  const env = of({ git });
  const settings = Array.from({ length: Number(env["GIT_CONFIG_COUNT"]) }, (_, n) => [
    env[`GIT_CONFIG_KEY_${n}`],
    env[`GIT_CONFIG_VALUE_${n}`],
  ]);
  const gateway = "http://10.42.7.1:4180";
  expect(settings).toContainEqual([`url.${gateway}/git/github.com/.insteadOf`, "https://github.com/"]);
  expect(settings).toContainEqual([`http.${gateway}/.extraHeader`, "Authorization: Bearer sk-ant-0123"]);
  expect(settings.filter(([, value]) => value?.includes("sk-ant-"))).toHaveLength(1);
});

test("an egress lane is a proxy for https alone", () => {
  const egress: RunGrants["egress"] = { allow: [], max_bytes: null, max_connections: 1 };
  const env = of({ egress });
  expect(env).toMatchObject({ HTTPS_PROXY: "http://run:sk-ant-0123@10.42.7.1:4181" });
  expect(env["https_proxy"]).toBe(env["HTTPS_PROXY"]);
  expect(Object.keys(env).filter((name) => /^http_proxy$/i.test(name))).toEqual([]);
});

test("a request may set TERM and LANG and its own, and none of ours", () => {
  expect(of({}, { TERM: "xterm", LANG: "de_DE.UTF-8", MINE: "1" })).toMatchObject({
    TERM: "xterm",
    LANG: "de_DE.UTF-8",
    MINE: "1",
  });
  checkEnvironment({ TERM: "xterm", LANG: "C", MINE: "1", GITHUB_TOKEN: "t", AUTH: "x" });
  for (const name of [
    "PATH",
    "HOME",
    "COFFERDAM_RUN_ID",
    "COFFERDAM_ANYTHING",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_API_KEY",
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_KEY_9",
    "GIT_CONFIG_GLOBAL",
    "HTTPS_PROXY",
    "https_proxy",
    "http_proxy",
    "ALL_PROXY",
    "NO_PROXY",
  ]) {
    expect(() => checkEnvironment({ OK: "1", [name]: "x" })).toThrow(`"env.${name}"`);
  }
});

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startGitGateway } from "../../../fixtures/git-gateway.ts";
import { startGitServer, type GitRequest } from "../../../fixtures/git-server.ts";
import { startGitHub } from "../../../fixtures/github.ts";

const MINUTE_MS = 60_000;
const clock = { now: Date.parse("2026-11-27T00:00:00Z") };
const now = () => clock.now;
const github = startGitHub({ installed: { acme: ["app", "docs", "other"], umbrella: ["tool"] }, now });
const root = mkdtempSync(join(tmpdir(), "git-server-"));
const server = startGitServer({ root });
/** As GitHub's git servers do. */
function byToken({ path, headers }: GitRequest): Response | null {
  const [, name = ""] = /^\/([^/]+\/[^/]+)\.git\//.exec(path) ?? [];
  const good = github.allows(headers.get("authorization"), name, path.includes("receive-pack"));
  return good ? null : new Response("no", { status: 401, headers: { "www-authenticate": "Basic" } });
}
const { app_id, private_key } = github;
const credential = { app_id, private_key, api_url: github.url, git_url: server.url };
const repositories = [
  { name: "Acme/App" },
  { name: "acme/docs", access: "read" },
  { name: "umbrella/tool" },
] as const;
const work = mkdtempSync(join(tmpdir(), "git-work-"));
const start = (over: Parameters<typeof startGitGateway>[1] = {}) =>
  startGitGateway({ credential, repositories }, { now, ...over });
const refsOf = (name: string) => `${name}.git/info/refs?service=git-upload-pack`;

/** What a run that is over has left. */
async function end(gateway: ReturnType<typeof start>): Promise<void> {
  gateway.ended.abort();
  await gateway.lane.end?.(gateway.journal);
}

beforeAll(async () => {
  await using gateway = start();
  const dir = join(work, "first");
  mkdirSync(dir);
  await gateway.git(dir, "init", "--quiet");
  await gateway.git(dir, "commit", "--quiet", "--allow-empty", "-m", "first");
  for (const name of ["acme/app", "acme/docs", "acme/other", "umbrella/tool"]) {
    const path = server.create(name);
    const { code, err } = await gateway.git(dir, "push", "--quiet", path, "main");
    if (code !== 0) throw new Error(err);
  }
});

beforeEach(() => {
  server.refuseWith(byToken);
  github.failWith(null);
  github.tokens.length = 0;
  github.calls.length = 0;
});

afterAll(async () => {
  await github[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

describe("tokens of a GitHub App", () => {
  test("are made when git first asks, each for what one owner's repositories need, and revoked at the end", async () => {
    await using gateway = start();
    const dir = join(work, "app");
    expect((await gateway.git(work, "clone", `${server.url}/acme/app`, dir)).code).toBe(0);
    await gateway.git(dir, "commit", "--quiet", "--allow-empty", "-m", "agent's");
    expect((await gateway.git(dir, "push", "origin", "HEAD:agent/x")).err).toContain("[new branch]");
    expect((await gateway.git(work, "ls-remote", `${server.url}/acme/docs`)).code).toBe(0);
    expect((await gateway.git(work, "ls-remote", `${server.url}/umbrella/tool`)).code).toBe(0);
    expect((await gateway.git(work, "ls-remote", `${server.url}/acme/other`)).code).not.toBe(0);
    expect(github.tokens.map(({ repositories, contents }) => [repositories, contents])).toEqual([
      [["app"], "write"],
      [["docs"], "read"],
      [["tool"], "write"],
    ]);
    await end(gateway);
    expect(github.tokens.map(({ revoked }) => revoked)).toEqual([true, true, true]);
    expect([...gateway.journal.kept().keys()]).toEqual([]);
  });

  test("are shared by all that ask at once, and made anew five minutes before they end", async () => {
    await using gateway = start();
    const all = async () =>
      (await Promise.all(Array.from({ length: 10 }, () => gateway.get(refsOf("acme/app"))))).map(
        ({ status }) => status,
      );
    expect(new Set(await all())).toEqual(new Set([200]));
    expect(github.tokens).toHaveLength(1);
    clock.now += 54 * MINUTE_MS;
    await all();
    expect(github.tokens).toHaveLength(1);
    clock.now += 2 * MINUTE_MS;
    await all();
    expect(github.tokens).toHaveLength(2);
    await end(gateway);
    expect(github.tokens.map(({ revoked }) => revoked)).toEqual([true, true]);
  });

  test("that the server does not take any more are replaced", async () => {
    await using gateway = start();
    await gateway.get(refsOf("acme/app"));
    for (const one of github.tokens) one.revoked = true;
    expect((await gateway.get(refsOf("acme/app"))).status).toBe(200);
    expect(github.tokens).toHaveLength(2);
    await end(gateway);
  });

  test("stand sealed in the journal before they are used, and a gateway that was killed revokes them", async () => {
    await using first = start();
    const seen: string[] = [];
    server.refuseWith((request) => {
      seen.push(readFileSync(first.journalFile, "utf8"));
      return byToken(request);
    });
    expect((await first.get(refsOf("acme/app"))).status).toBe(200);
    const [token] = github.tokens;
    if (token === undefined) throw new Error("there is no token");
    expect(seen[0]).toContain('"kept":"git token ');
    for (const text of [token.token, Buffer.from(token.token).toString("base64"), private_key]) {
      expect(seen.join("")).not.toContain(text);
    }
    await first.kill();
    expect(token.revoked).toBe(false);
    const { dir, run } = first;
    await using second = start({ dir, run });
    await end(second);
    expect(token.revoked).toBe(true);
  });

  test("that can't be revoked now are kept for the next time, until they end by themselves", async () => {
    await using gateway = start();
    await gateway.get(refsOf("acme/app"));
    await gateway.get(refsOf("umbrella/tool"));
    github.failWith((call) => (call.startsWith("DELETE") ? new Response("down", { status: 503 }) : null));
    const failure = await end(gateway).catch((error: unknown) => String(error));
    expect(failure).toContain("2 git tokens are not revoked yet");
    expect(gateway.journal.kept().size).toBe(2);
    github.failWith(null);
    await end(gateway);
    expect(github.tokens.map(({ revoked }) => revoked)).toEqual([true, true]);
    expect(gateway.journal.kept().size).toBe(0);
  });

  test("that are made while the run ends are revoked as well", async () => {
    await using gateway = start();
    const minting = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    github.failWith(async (call) => {
      if (!call.endsWith("access_tokens")) return null;
      minting.resolve();
      await go.promise;
      return null;
    });
    const answer = gateway.get(refsOf("acme/app"));
    await minting.promise;
    const ended = end(gateway);
    go.resolve();
    await ended;
    expect(github.tokens.map(({ revoked }) => revoked)).toEqual([true]);
    await answer;
  });
});

describe("when there is no token, a person sees why", () => {
  test.each<[string, object, string]>([
    ["a wrong key", { app_id: "1" }, "GitHub does not take the App's key (401)"],
    ["a key that is none", { private_key: "-----BEGIN RSA PRIVATE KEY-----" }, "private key can't be read"],
    ["an API that is away", { api_url: "http://127.0.0.1:65123" }, "refused the connection at port 65123"],
  ])("%s", async (_, over, why) => {
    await using gateway = startGitGateway({ credential: { ...credential, ...over }, repositories }, { now });
    const { code, err } = await gateway.git(work, "ls-remote", `${server.url}/acme/app`);
    expect(code).not.toBe(0);
    expect(err).toContain(`remote: `);
    expect(err).toContain(why);
    expect(err).not.toContain("BEGIN RSA");
  });

  test("a repository that the App is not installed for", async () => {
    const names = [{ name: "acme/app" }, { name: "acme/none" }];
    await using gateway = startGitGateway({ credential, repositories: names }, { now });
    const { err } = await gateway.git(work, "ls-remote", `${server.url}/acme/app`);
    expect(err).toContain("remote: the GitHub App may not write all of acme/app, acme/none (422)");
    await gateway.get(refsOf("acme/app"));
    // A run that asks again does not have GitHub asked each time.
    expect(github.calls.filter((call) => call.endsWith("access_tokens"))).toHaveLength(1);
  });
});

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startGitGateway, type GitGateway } from "../../../fixtures/git-gateway.ts";
import { startGitServer } from "../../../fixtures/git-server.ts";

const SECRET = "static-token-that-no-run-may-see";
const root = mkdtempSync(join(tmpdir(), "git-server-"));
const server = startGitServer({
  root,
  refuse: ({ headers }) =>
    headers.get("authorization") === `Basic ${Buffer.from(`git:${SECRET}`).toString("base64")}`
      ? null
      : new Response("who are you?", { status: 401, headers: { "www-authenticate": "Basic" } }),
});
const credential = { secret: SECRET, git_url: server.url };
const REPOSITORY = "acme/app";
const remote = `${server.url}/${REPOSITORY}.git`;

const gateway = startGitGateway({
  credential,
  repositories: [{ name: REPOSITORY }, { name: "acme/docs", access: "read", branches: [] }],
});
const work = mkdtempSync(join(tmpdir(), "git-work-"));
const at = (name: string) => join(work, name);

async function ok(from: GitGateway, cwd: string, ...args: string[]): Promise<string> {
  const { code, out, err } = await from.git(cwd, ...args);
  if (code !== 0) throw new Error(`git ${args.join(" ")}: ${err}`);
  return out.trim();
}

/** A commit on what is checked out. */
async function commit(cwd: string, name: string = crypto.randomUUID(), from = gateway): Promise<string> {
  writeFileSync(join(cwd, name), name);
  await ok(from, cwd, "add", "-A");
  await ok(from, cwd, "commit", "--quiet", "-m", name);
  return ok(from, cwd, "rev-parse", "HEAD");
}

let clones = 0;
/** A clone by the run, with one commit that the server does not have. */
async function cloned(from = gateway): Promise<string> {
  clones += 1;
  const dir = at(`clone-${clones}`);
  await ok(from, work, "clone", "--quiet", remote, dir);
  await commit(dir, undefined, from);
  return dir;
}

beforeAll(async () => {
  for (const name of [REPOSITORY, "acme/docs", "acme/secret"]) {
    const path = server.create(name);
    const dir = at(name.replace("/", "-"));
    mkdirSync(dir);
    await ok(gateway, dir, "init", "--quiet");
    for (let n = 0; n < 5; n += 1) await commit(dir, `file-${n}`);
    await ok(gateway, dir, "push", "--quiet", path, "main", "main:theirs", "main:agent/theirs");
    await ok(gateway, dir, "push", "--quiet", path, "main:refs/tags/v1");
  }
});

afterAll(async () => {
  await gateway[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

describe("reading", () => {
  test("a clone, a fetch of what is new, a shallow and a partial clone", async () => {
    const dir = at("reading");
    await ok(gateway, work, "clone", "--quiet", remote, dir);
    expect(await ok(gateway, dir, "rev-list", "--count", "HEAD")).toBe("5");
    const tip = await commit(at("acme-app"), "later");
    await ok(gateway, at("acme-app"), "push", "--quiet", join(root, "acme/app.git"), "main");
    await ok(gateway, dir, "pull", "--quiet");
    expect(await ok(gateway, dir, "rev-parse", "HEAD")).toBe(tip);

    await ok(gateway, work, "clone", "--quiet", "--depth=1", remote, at("shallow"));
    expect(await ok(gateway, at("shallow"), "rev-list", "--count", "HEAD")).toBe("1");
    await ok(gateway, at("shallow"), "fetch", "--quiet", "--deepen=2");
    expect(await ok(gateway, at("shallow"), "rev-list", "--count", "HEAD")).toBe("3");
  });

  test.each(["0", "1", "2"])("with version %s of the protocol", async (version) => {
    const dir = at(`version-${version}`);
    await ok(gateway, work, "-c", `protocol.version=${version}`, "clone", "--quiet", remote, dir);
    expect(await ok(gateway, dir, "rev-parse", "HEAD")).toBe(
      server.refs(REPOSITORY)["refs/heads/main"] ?? "",
    );
    const asked = server.requests.findLast(({ path }) => path.includes("info/refs"));
    expect(asked?.headers.get("git-protocol")).toBe(version === "0" ? null : `version=${version}`);
  });
});

describe("pushing", () => {
  test("a branch that matches is made, and moved afterwards, also by force", async () => {
    const dir = await cloned();
    const pushed = await gateway.git(dir, "push", "origin", "HEAD:agent/one");
    expect(pushed.err).toContain("[new branch]");
    await ok(gateway, dir, "commit", "--quiet", "--amend", "-m", "other");
    const moved = await gateway.git(dir, "push", "--force", "origin", "HEAD:agent/one");
    expect(moved.err).toContain("(forced update)");
    expect(server.refs(REPOSITORY)["refs/heads/agent/one"]).toBe(await ok(gateway, dir, "rev-parse", "HEAD"));
  });

  test.each([
    ["another branch", ["HEAD:main"], "this run may push only to agent/*"],
    ["a new branch that does not match", ["HEAD:other"], "this run may push only to agent/*"],
    ["a branch that was there before", ["HEAD:agent/theirs"], "the branch is not of this run"],
    ["the same by force", ["--force", "HEAD:agent/theirs"], "the branch is not of this run"],
    ["a tag", ["HEAD:refs/tags/v2"], "runs push branches, no tags"],
    ["a ref of another kind", ["HEAD:refs/pull/1/head"], "runs push branches, no other refs"],
    ["a deletion", [":agent/theirs"], "runs delete no branches"],
  ])("%s is refused, and git says why", async (_, args, why) => {
    const dir = await cloned();
    const before = server.refs(REPOSITORY);
    const asked = server.requests.length;
    const { code, err } = await gateway.git(dir, "push", "origin", ...args);
    expect(err).toContain("! [remote rejected]");
    expect(err).toContain(why);
    expect(err).toContain(
      "remote: Nothing of this push was taken. In acme/app this run may create branches that",
    );
    expect(code).toBe(1);
    expect(server.refs(REPOSITORY)).toEqual(before);
    expect(server.requests.slice(asked).map(({ method }) => method)).toEqual(["GET"]);
  });
});

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
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
    const path = server.create(name, { "uploadpack.allowFilter": "true" });
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
    await commit(at("shallow"));
    const pushed = await gateway.git(at("shallow"), "push", "origin", "HEAD:agent/shallow");
    expect(pushed.err).toContain("[new branch]");
    await ok(gateway, at("shallow"), "fetch", "--quiet", "--deepen=2");
    expect(await ok(gateway, at("shallow"), "rev-list", "--count", "HEAD")).toBe("4");

    const partial = at("partial");
    await ok(gateway, work, "clone", "--quiet", "--filter=blob:none", "--no-checkout", remote, partial);
    expect(await ok(gateway, partial, "show", "HEAD:file-1")).toBe("file-1");
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
    ["a name with a space that is none", ["HEAD:refs/heads/agent/x\u00a0main"], "has characters that runs"],
    ["one of several", ["HEAD:agent/good", "HEAD:main"], "(another ref was refused)"],
    ["one of several at once", ["--atomic", "HEAD:agent/good", "HEAD:main"], "this run may push only to"],
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

test("a push that may be signed is not, and one with options is refused by git", async () => {
  const dir = await cloned();
  await ok(gateway, dir, "push", "--quiet", "--signed=if-asked", "origin", "HEAD:agent/unsigned");
  const { err } = await gateway.git(dir, "push", "-o", "ci.skip", "origin", "HEAD:agent/options");
  expect(err).toContain("does not support push options");
});

test("what the server's own hooks refuse is told, and noted as refused", async () => {
  const hook = join(root, "acme/app.git/hooks/update");
  writeFileSync(hook, "#!/bin/sh\ncase $1 in *hooked*) echo nobody wants this; exit 1;; esac\n", {
    mode: 0o755,
  });
  const dir = await cloned();
  const { err } = await gateway.git(dir, "push", "origin", "HEAD:agent/hooked", "HEAD:agent/fine");
  expect(err).toContain("remote: nobody wants this");
  expect(err).toContain("! [remote rejected] HEAD -> agent/hooked (hook declined)");
  const pushed = (await gateway.records()).findLast((one) => one.kind === "git" && one.action === "push");
  expect(pushed?.kind === "git" ? pushed.refs.map(({ ref, accepted }) => [ref, accepted]) : []).toEqual([
    ["refs/heads/agent/hooked", false],
    ["refs/heads/agent/fine", true],
  ]);
});

test("what a run may not reach is refused with the reason", async () => {
  const { err } = await gateway.git(work, "clone", `${server.url}/acme/secret`);
  expect(err).toContain(`remote: This run may not reach ${gateway.host}/acme/secret, only`);
  const docs = at("docs");
  await ok(gateway, work, "clone", "--quiet", `${server.url}/Acme/Docs`, docs);
  await commit(docs);
  const pushed = await gateway.git(docs, "push", "origin", "HEAD:agent/x");
  expect(pushed.err).toContain("remote: This run may read acme/docs, not push to it.");
  const lfs = await gateway.post(`${REPOSITORY}.git/info/lfs/objects/batch`, "{}");
  expect([lfs.status, lfs.headers.get("content-type")]).toEqual([403, "text/plain; charset=utf-8"]);
  const asked = server.requests.length;
  const path = "/git/other.test/acme/app.git/info/refs?service=git-upload-pack";
  const other = await fetch(gateway.url + path, { headers: { authorization: "Bearer run-token" } });
  expect([other.status, await other.text()]).toEqual([
    403,
    expect.stringContaining("not reach other.test/acme/app"),
  ]);
  expect(server.requests.length).toBe(asked);
  const dumb = await gateway.get(`${REPOSITORY}.git/info/refs`);
  expect(dumb.status).toBe(403);
  expect(gateway.denials.map(({ reason }) => reason)).toContainValues(["repository", "access", "path"]);
});

test("a clone and a push are a record each", async () => {
  const before = (await gateway.records()).length;
  const dir = await cloned();
  await ok(gateway, dir, "push", "--quiet", "origin", "HEAD:agent/recorded");
  const tip = await ok(gateway, dir, "rev-parse", "HEAD");
  expect((await gateway.records()).slice(before)).toEqual([
    expect.objectContaining({ kind: "git", action: "fetch", repository: REPOSITORY, refs: [] }),
    expect.objectContaining({
      kind: "git",
      action: "push",
      repository: REPOSITORY,
      credential: gateway.id,
      refs: [{ ref: "refs/heads/agent/recorded", old: "0".repeat(40), new: tip, accepted: true }],
    }),
  ]);
});

test("after a restart a run still knows which branches are its own", async () => {
  await using first = startGitGateway({ credential, repositories: [{ name: REPOSITORY }] });
  const dir = await cloned(first);
  await ok(first, dir, "push", "--quiet", "origin", "HEAD:agent/kept");
  await first.kill();
  const { run, id } = first;
  await using second = startGitGateway(
    { credential, repositories: [{ name: REPOSITORY }] },
    { dir: first.dir, run, id },
  );
  await commit(dir, undefined, second);
  await ok(second, dir, "push", "--quiet", "origin", "HEAD:agent/kept");
  const { err } = await second.git(dir, "push", "--force", "origin", "HEAD:agent/theirs");
  expect(err).toContain("the branch is not of this run");
  // Another run's they are not.
  const others = await gateway.git(dir, "push", "--force", "origin", "HEAD~1:agent/kept");
  expect(others.err).toContain("the branch is not of this run");
});

test("with update, what was there before is moved, too", async () => {
  await using updating = startGitGateway({ credential, repositories: [{ name: REPOSITORY, update: true }] });
  const dir = await cloned(updating);
  await ok(updating, dir, "push", "--quiet", "origin", "HEAD:agent/theirs");
  expect(server.refs(REPOSITORY)["refs/heads/agent/theirs"]).toBe(
    await ok(updating, dir, "rev-parse", "HEAD"),
  );
});

test("the server is told of git's own headers and the credential, and the run nothing of that", async () => {
  const asked = server.requests.length;
  const gzipped = Bun.gzipSync("0014command=ls-refs\n0000");
  const answer = await gateway.post(`${REPOSITORY}/git-upload-pack`, gzipped, {
    cookie: "a=b",
    "x-forwarded-for": "10.0.0.1",
    "content-encoding": "gzip",
    "git-protocol": "version=2",
    "user-agent": "git/2.39.5",
    "content-type": "text/html",
  });
  expect(await answer.text()).toContain("refs/heads/main");
  expect(Object.keys(Object.fromEntries(answer.headers)).sort()).toEqual([
    "cache-control",
    "content-type",
    "date",
    "transfer-encoding",
  ]);
  const [request] = server.requests.slice(asked);
  expect(request?.path).toBe(`/${REPOSITORY}.git/git-upload-pack`);
  const headers = Object.fromEntries(request?.headers ?? []);
  expect(Object.keys(headers).sort()).toEqual([
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "git-protocol",
    "host",
    "user-agent",
  ]);
  expect(headers).toMatchObject({ "content-encoding": "gzip", "git-protocol": "version=2" });
});

test("the credential is in nothing that the run has, nor in what is kept", async () => {
  const dir = await cloned();
  const verbose = await gateway.git(
    dir,
    "-c",
    "core.askPass=true",
    "push",
    "--verbose",
    "origin",
    "HEAD:main",
  );
  const seen = [
    verbose.out + verbose.err,
    readFileSync(join(dir, ".git/config"), "utf8"),
    readFileSync(gateway.journalFile, "utf8"),
    JSON.stringify([gateway.denials, gateway.logged]),
  ].join("\n");
  expect(seen).toContain("agent/*");
  for (const secret of [SECRET, Buffer.from(`git:${SECRET}`).toString("base64")])
    expect(seen).not.toContain(secret);
});

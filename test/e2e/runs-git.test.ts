import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { startGitServer } from "../fixtures/git-server.ts";
import { startGitHub } from "../fixtures/github.ts";
import { EMPTY, runCalls } from "../fixtures/run-calls.ts";
import { until } from "../fixtures/until.ts";

const github = startGitHub({ installed: { acme: ["app"] } });
const server = startGitServer({
  root: mkdtempSync(join(tmpdir(), "git-server-")),
  refuse: ({ headers, path }) =>
    github.allows(headers.get("authorization"), "acme/app", path.includes("receive-pack"))
      ? null
      : new Response("no", { status: 401 }),
});

const GRANT = {
  credential: "hub",
  repositories: [{ name: "acme/app", access: "write", branches: ["agent/*"] }],
};

let appliance: Appliance;
const { startRun, runOf, over, outputOf, makeCredential } = runCalls(() => appliance, {
  ...EMPTY,
  git: GRANT,
});
beforeAll(async () => {
  const dir = mkdtempSync(join(tmpdir(), "git-work-"));
  mkdirSync(join(dir, "app"));
  const git = (...args: string[]) =>
    Bun.spawnSync(["git", "-c", "user.name=a", "-c", "user.email=a@b.test", ...args], {
      cwd: join(dir, "app"),
    });
  git("init", "--quiet", "--initial-branch=main");
  git("commit", "--quiet", "--allow-empty", "-m", "first");
  git("push", "--quiet", server.create("acme/app"), "main");
  appliance = await startAppliance({
    config: '[exec]\npool = 0\n\n[providers]\nallow_private = ["127.0.0.0/8"]\n',
  });
  const { app_id, private_key, url } = github;
  await makeCredential({
    name: "hub",
    kind: "github-app",
    app_id,
    private_key,
    api_url: url,
    git_url: server.url,
  });
});
afterAll(async () => {
  await appliance.stop();
  await server[Symbol.asyncDispose]();
  await github[Symbol.asyncDispose]();
});

const CLONE = [
  `git clone ${server.url}/acme/app && cd app`,
  "git config user.name agent && git config user.email agent@example.test",
];

test("a run clones, pushes its own branch, is told why it may push no other, and never has a token", async () => {
  const command = [
    ...CLONE,
    "git commit --allow-empty --quiet -m agent && git push origin HEAD:agent/one",
    "git push origin HEAD:main; git push origin HEAD:refs/tags/v1",
    "cat .git/config; env; true",
  ];
  const id = await startRun({ command: command.join("\n") });
  const run = await over(id);
  const output = await outputOf(id);
  expect(output).toContain("[new branch]      HEAD -> agent/one");
  expect(output).toContain("! [remote rejected] HEAD -> main (this run may push only to agent/*)");
  expect(output).toContain("! [remote rejected] HEAD -> v1 (runs push branches, no tags)");
  expect(output).toContain(
    "remote: Nothing of this push was taken. In acme/app this run may create branches that",
  );
  expect(run).toMatchObject({ status: "succeeded", usage: { git: { fetches: 1, pushes: 1 } } });
  expect(run.denials.map(({ kind, reason }) => [kind, reason])).toEqual([
    ["git", "branch"],
    ["git", "tag"],
  ]);
  expect(Object.keys(server.refs("acme/app"))).toEqual(["refs/heads/agent/one", "refs/heads/main"]);
  expect(
    github.tokens.map(({ repositories, contents, revoked }) => [repositories, contents, revoked]),
  ).toEqual([[["app"], "write", true]]);
  for (const { token } of github.tokens) expect(output).not.toContain(token);
});

test("over a killed gateway it goes on, its branch is still its own, and every token is revoked", async () => {
  github.tokens.length = 0;
  const command = [
    ...CLONE,
    "git commit --allow-empty --quiet -m before && git push origin HEAD:agent/two",
    "read -r",
    "git commit --amend --allow-empty --quiet -m after",
    "until git push --force origin HEAD:agent/two; do sleep 0.2; done",
    "git push --force origin HEAD:agent/one || git rev-parse HEAD",
  ];
  const id = await startRun({ command: command.join("\n"), stdin_open: true });
  // Of a push that is cut nobody knows whether the server took it, and the branch would not count as the run's.
  await until(async () => (await runOf(id)).usage.git.pushes === 1);
  const before = server.refs("acme/app")["refs/heads/agent/two"];
  const killed = appliance.pid("gateway");
  process.kill(killed, "SIGKILL");
  await until(() => {
    try {
      return appliance.pid("gateway") !== killed;
    } catch {
      return false;
    }
  });
  expect((await appliance.call(`/v1/runs/${id}/stdin?eof=true`, { method: "POST", body: "\n" })).status).toBe(
    200,
  );
  const run = await over(id);
  const output = await outputOf(id);
  expect([run.status, output]).toEqual(["succeeded", output]);
  const after = server.refs("acme/app")["refs/heads/agent/two"] ?? "";
  expect(after).not.toBe(before);
  expect(output).toContain(after);
  expect(output).toContain("! [remote rejected] HEAD -> agent/one (the branch is not of this run");
  expect(github.tokens.map(({ revoked }) => revoked)).toEqual([true, true]);
});

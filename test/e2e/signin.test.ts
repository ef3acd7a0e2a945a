import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startAppliance } from "../fixtures/appliance.ts";
import { formOf } from "../fixtures/form.ts";
import { sdkBin } from "../fixtures/sdk.ts";
import { until } from "../fixtures/until.ts";

// The published `trove login`, without a key, to its end; each waits for the client's own polls.
setDefaultTimeout(60_000);

const bin = sdkBin();
const appliance = await startAppliance();
afterAll(() => appliance.stop());
const { base_url, workspace_id, admin_key } = appliance.keys;

/** `trove login` on a terminal, with a browser that only notes what it was to open. */
function troveLogin() {
  const home = mkdtempSync("/scratch/trove-");
  const browser = join(home, "browser");
  const opened = join(home, "opened");
  writeFileSync(browser, `#!/bin/sh\necho "$1" > ${opened}.new && mv ${opened}.new ${opened}\n`);
  chmodSync(browser, 0o755);
  const env = { PATH: "/usr/bin:/bin", HOME: home, TERM: "dumb", BROWSER: `${browser} %s` };
  let said = "";
  const child = Bun.spawn([join(bin, "trove"), "login", "--base-url", base_url], {
    env,
    terminal: { cols: 200, data: (_, bytes) => void (said += Buffer.from(bytes).toString()) },
  });
  return {
    /** What the browser was sent to. */
    async url(): Promise<string> {
      while (!(await Bun.file(opened).exists())) {
        if (child.exitCode !== null) throw new Error(said);
        await Bun.sleep(20);
      }
      return (await Bun.file(opened).text()).trim();
    },
    async code(): Promise<string> {
      const code = /user_code=(\S+)/.exec(await this.url())![1]!;
      // Through a terminal of its own, it may arrive after the browser was opened.
      await until(() => said.includes(`Code: ${code}`));
      return code;
    },
    /** Its exit code and all that it said. */
    async end(): Promise<{ code: number; said: string }> {
      return { code: await child.exited, said };
    },
    whoami: () => Bun.spawnSync([join(bin, "trove"), "whoami"], { env }).stdout.toString(),
    run: (command: string) =>
      Bun.spawnSync([join(bin, "trove"), "run", command], { env, stdin: "ignore" }).stdout.toString(),
  };
}

const keysNamed = async (name: string) => {
  const response = await appliance.call(`/v1/workspaces/${workspace_id}/keys`, {
    key: admin_key,
    namespace: null,
  });
  return ((await response.json()) as { keys: { name: string }[] }).keys.filter((key) => key.name === name)
    .length;
};

test("approved by `cofferdam login approve` it is signed in, with a key that works in a namespace", async () => {
  const login = troveLogin();
  const code = await login.code();
  expect((await appliance.cofferdam(["login", "list"])).stdout).toContain("python-httpx");
  await appliance.cofferdam(["login", "approve", code, "--namespace", "alice", "--yes"]);
  const ended = await login.end();
  expect(ended, ended.said).toMatchObject({ code: 0 });
  expect(ended.said).toContain(`workspace=${workspace_id}  namespace=alice  scope=workspace`);
  expect(login.whoami()).toContain("trove login from 127.0.0.1");
  expect(login.run("echo hi")).toBe("hi\n");
  expect(await keysNamed("trove login from 127.0.0.1")).toBe(1);
});

test("approved on the page that it opens it is signed in, for the workspace", async () => {
  const login = troveLogin();
  const first = formOf(await (await fetch(await login.url())).text());
  expect(first).toMatchObject({ user_code: await login.code() });
  const send = async (fields: Record<string, string>) => {
    const response = await fetch(`${base_url}/device`, {
      method: "POST",
      headers: { origin: base_url, "sec-fetch-site": "same-origin" },
      body: new URLSearchParams(fields),
    });
    return response.text();
  };
  const second = await send({ ...first, admin_key });
  expect(second).toContain("python-httpx");
  expect(await send({ ...formOf(second), answer: "approve" })).toContain("Approved");
  const ended = await login.end();
  expect(ended, ended.said).toMatchObject({ code: 0 });
  expect(ended.said).toContain(`workspace=${workspace_id}  scope=workspace`);
  expect(login.whoami()).toContain("namespace: -");
});

test("denied it says so, and has nothing", async () => {
  const login = troveLogin();
  await appliance.cofferdam(["login", "deny", await login.code()]);
  const ended = await login.end();
  expect(ended.code).not.toBe(0);
  expect(ended.said).toContain("authorization denied");
  expect(login.whoami()).not.toContain(workspace_id);
});

test("it waits through a restart of api", async () => {
  const login = troveLogin();
  const code = await login.code();
  process.kill(appliance.pid("api"), "SIGKILL");
  let answered = false;
  while (!answered) {
    answered = await fetch(`${base_url}/healthz`).then(
      ({ ok }) => ok,
      () => false,
    );
    await Bun.sleep(50);
  }
  await appliance.cofferdam(["login", "approve", code, "--yes"]);
  const ended = await login.end();
  expect(ended, ended.said).toMatchObject({ code: 0 });
});

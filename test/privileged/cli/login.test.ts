import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { MAIN, startCliApi } from "../../fixtures/cli-api.ts";

// Each command is a process from source, and a test runs several of them.
setDefaultTimeout(60_000);

const { data, port, cofferdam, json, stop } = await startCliApi();
afterAll(() => stop());

let ws: string;
beforeAll(async () => {
  ws = (await cofferdam(["workspace", "create", "main"])).stdout.trim();
});

const call = async (path: string, body?: object) =>
  (await (
    await fetch(`http://127.0.0.1:${port}/v1/auth/device/${path}`, {
      method: "POST",
      headers: { "user-agent": "tool/1" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
  ).json()) as Record<string, string>;
const poll = async ({ device_code }: Record<string, string>) => call("poll", { device_code });
const me = async (key: string) =>
  (await fetch(`http://127.0.0.1:${port}/v1/me`, { headers: { authorization: `Bearer ${key}` } })).json();

test("who waits is listed, without the code", async () => {
  expect((await cofferdam(["login", "list"])).stdout).toBe("Nobody waits for an answer.\n");
  const started = await call("start");
  const { stdout } = await cofferdam(["login", "list"]);
  expect(stdout).toMatch(/^LOGIN +ADDRESS +PROGRAM +STARTED +ENDS\nlogin-\S+ +127\.0\.0\.1 +tool\/1 +\d{4}-/);
  expect(stdout).not.toContain(started["user_code"]!);
  expect(await json(["login", "list"])).toMatchObject({ logins: [{ client: "tool/1" }] });
});

test("it is shown and asked about before it is approved; the key is the workspace's", async () => {
  const started = await call("start");
  const code = started["user_code"]!;
  const asked = await cofferdam(["login", "approve", code]);
  expect(asked).toMatchObject({ code: 2, stdout: "" });
  expect(asked.stderr).toMatch(
    /^cofferdam: login-\S+: "tool\/1" from 127\.0\.0\.1, asked at .* UTC\ncofferdam: .*--yes/,
  );
  expect(await poll(started)).toEqual({ status: "pending" });
  const { stdout } = await cofferdam(["login", "approve", code.toLowerCase(), "--yes"]);
  expect(stdout).toMatch(
    new RegExp(`^login-\\S+ is approved: it gets a key for any namespace of the workspace ${ws}\\.\n$`),
  );
  await Bun.sleep(1500);
  const done = await poll(started);
  expect(done).toMatchObject({ status: "approved", workspace_id: ws });
  expect(await me(done["api_key"]!)).toMatchObject({ scope: "workspace", namespace: null });
  expect(await json(["key", "list"])).toMatchObject({ keys: [{ name: "trove login from 127.0.0.1" }] });
});

test("it is locked to the namespace that is named, in the workspace that is named", async () => {
  const other = (await cofferdam(["workspace", "create", "other"])).stdout.trim();
  const started = await call("start");
  const code = started["user_code"]!;
  expect((await cofferdam(["login", "approve", code, "--yes"])).stderr).toContain("several workspaces");
  const command = ["login", "approve", code, "--yes", "--namespace", "alice", "--workspace"];
  expect(await json([...command, "other"])).toMatchObject({ workspace_id: other, namespace: "alice" });
  const done = await poll(started);
  expect(await me(done["api_key"]!)).toMatchObject({ workspace_id: other, namespace: "alice" });
});

test("it is denied, and no code is one twice", async () => {
  const started = await call("start");
  const code = started["user_code"]!;
  const ofMain = ["--workspace", "main"];
  expect((await cofferdam(["login", "deny", code, ...ofMain])).stdout).toMatch(/^login-\S+ is denied\.\n$/);
  expect(await poll(started)).toEqual({ status: "denied" });
  for (const verb of ["deny", "approve"]) {
    expect(await cofferdam(["login", verb, code, ...ofMain])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^cofferdam: No sign-in waits for an answer under this code;/),
    });
  }
  expect((await cofferdam(["login", "deny", "hello", ...ofMain])).code).toBe(2);
});

test("on a terminal it asks: only yes approves, and all else changes nothing", async () => {
  const started = await call("start");
  const replies: [keys: string, code: number, said: string][] = [
    ["n\r", 1, "Nothing was changed."],
    ["\r", 1, "Nothing was changed."],
    ["\u0003", 1, "Nothing was changed."],
    ["\u0004", 1, "Nothing was changed."],
    // Which it could not if one of the others had answered it.
    ["y\r", 0, "is approved"],
  ];
  for (const [reply, code, said] of replies) {
    let screen = "";
    const child = Bun.spawn(
      [process.execPath, MAIN, "login", "approve", started["user_code"]!, "--workspace", "main"],
      {
        env: { PATH: process.env["PATH"], COFFERDAM_DATA: data, TERM: "xterm" },
        terminal: {
          cols: 200,
          data: (terminal, bytes) => {
            const asked = screen.includes("[y/N]");
            screen += Buffer.from(bytes).toString();
            if (!asked && screen.includes("[y/N]")) terminal.write(reply);
          },
        },
      },
    );
    expect([await child.exited, screen]).toEqual([code, expect.stringContaining(said)]);
    expect(screen).toContain('"tool/1" from 127.0.0.1');
  }
  expect(await poll(started)).toMatchObject({ status: "approved" });
});

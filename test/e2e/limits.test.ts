import { afterAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { startAppliance } from "../fixtures/appliance.ts";
import { raw } from "../fixtures/raw.ts";
import { sdkBin } from "../fixtures/sdk.ts";
import { until } from "../fixtures/until.ts";

const config = (perKey: string) => `[exec]\npool = 1\n[rate]\nper_key = "${perKey}"\n`;
const appliance = await startAppliance({ config: config("0") });
afterAll(() => appliance.stop());
const port = Number(new URL(appliance.keys.base_url).port);

async function setPerKey(rate: string): Promise<void> {
  writeFileSync(`${appliance.data}.config.toml`, config(rate));
  process.kill(appliance.pid("serve"), "SIGHUP");
  const inForce = async () => (await appliance.cofferdam(["config", "show"])).stdout;
  for (let tries = 0; !(await inForce()).includes(`"${rate}"`); tries++) {
    if (tries > 400) throw new Error(`not within 10 s: ${rate} in\n${await inForce()}`);
    await Bun.sleep(25);
  }
}

test("the SDK sees a rate limit for what it is, and a reload lifts it", async () => {
  await setPerKey("5/h");
  const calls = () => {
    const program = `
import json, sys
from trove_sdk import TroveClient
from trove_sdk.exceptions import TroveRateLimitError
with TroveClient(sys.argv[1], "sdk", base_url=sys.argv[2]) as client:
    seen = []
    for n in range(7):
        try:
            client.write(f"f{n}", "x")
            seen.append("written")
        except TroveRateLimitError as error:
            seen.append(str(error))
    print(json.dumps(seen))
`;
    const { workspace_key, base_url } = appliance.keys;
    const done = Bun.spawnSync([join(sdkBin(), "python"), "-c", program, workspace_key, base_url]);
    return JSON.parse(done.stdout.toString()) as string[];
  };
  const refused = expect.stringMatching(/This key is used too often; try again in \d+ s\./);
  expect(calls()).toEqual([...Array.from({ length: 5 }, () => "written"), refused, refused]);
  // The operator's commands are not counted.
  expect((await appliance.cofferdam(["file", "ls", "sdk"])).stdout).toContain("workspace/f4");

  await setPerKey("0");
  expect(calls()).toEqual(Array.from({ length: 7 }, () => "written"));
});

test("keys that a client puts where none belongs are not in the log", async () => {
  const { workspace_key: key, admin_key: admin, workspace_id: ws } = appliance.keys;
  const head = (token: string, more = "") =>
    `Host: x\r\nAuthorization: Bearer ${token}\r\nX-Namespace: n\r\nConnection: close\r\n${more}\r\n`;
  const body = JSON.stringify({ path: key, content: admin, command: `echo ${key}`, name: key });
  const ids: string[] = [];
  const withBody = `Content-Length: ${body.length}\r\n`;
  for (const request of [
    `GET /v1/files?path=a&api_key=${key} HTTP/1.1\r\n${head(key)}`,
    `GET /files/${key} HTTP/1.1\r\n${head(key)}`,
    `GET /${admin} HTTP/1.1\r\n${head(key)}`,
    `GET /v1/workspaces/${admin}/keys?key=${key} HTTP/1.1\r\n${head(key)}`,
    `GET /v1/me HTTP/1.1\r\n${head(`${key}x`)}`,
    `GET /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${key}\r\nX-Namespace: ${admin}\r\nConnection: close\r\n\r\n`,
    `GET /v1/files HTTP/1.1\r\n${head(key, `User-Agent: ${key}\r\nReferer: http://x/?k=${admin}\r\nX-Request-Id: ${key}\r\n`)}`,
    `POST /write HTTP/1.1\r\n${head(key, withBody)}${body}`,
    `POST /v1/exec HTTP/1.1\r\n${head(key, withBody)}${body}`,
    `POST /v1/workspaces/${ws}/keys HTTP/1.1\r\n${head(admin, withBody)}${body}`,
    `POST /v1/auth/device/start HTTP/1.1\r\n${head(key)}`,
    `POST /v1/auth/device/poll HTTP/1.1\r\n${head(key, withBody)}${body}`,
  ]) {
    const id = /\r\nx-request-id: (req-\w+)\r\n/i.exec(await raw(port, request))?.[1];
    if (id === undefined) throw new Error(`no id in the answer to ${request}`);
    ids.push(id);
  }
  const log = () => readFileSync(`${appliance.data}.log`, "utf8");
  // Each of these requests has its line, which is written a little later.
  await until(() => ids.every((id) => log().includes(id)));
  for (const secret of [key, admin]) expect(log()).not.toContain(secret.slice(-30));
  // And `stop` looks for all that resembles a secret.
});

test("more connections than api has descriptors for keep nobody else out, the operator least", async () => {
  const descriptors = 4096;
  const crowded = await startAppliance({ descriptors });
  const crowd: Socket[] = [];
  const ended = { count: 0 };
  while (crowd.length < 2 * descriptors) {
    for (let n = 0; n < 100; n++) {
      const target = {
        port: Number(new URL(crowded.keys.base_url).port),
        host: "127.0.0.1",
        localAddress: "127.0.0.9",
      };
      const socket = connect(target, () => socket.write("G"));
      socket.on("error", () => {});
      socket.on("close", () => void ended.count++);
      crowd.push(socket);
    }
    await Bun.sleep(20);
  }
  expect(ended.count).toBeGreaterThan(0);
  expect((await crowded.cofferdam(["workspace", "list"])).stdout).toContain(crowded.keys.workspace_id);
  expect((await crowded.call("/write", { json: { path: "a", content: "b" } })).status).toBe(200);
  expect(readFileSync(`${crowded.data}.log`, "utf8")).toContain('"most":"127.0.0.9"');
  for (const socket of crowd) socket.destroy();
  await crowded.stop();
});

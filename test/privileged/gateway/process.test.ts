import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { roleUser } from "../../../src/kernel/users.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { PORT, startGatewayStage, type GatewayStage } from "../../fixtures/gateway-stage.ts";
import { sealLlmGrant } from "../../fixtures/run-grant.ts";
import { HOST, isInMemory } from "../../fixtures/web.ts";

const SECRET = `sk-ant-api03-${"5ec2e7".repeat(8)}`;
setDefaultTimeout(60_000);
let stage: GatewayStage;
beforeAll(async () => {
  stage = await startGatewayStage();
});
afterAll(() => stage[Symbol.asyncDispose]());

test("a run that opens connections without end loses its own, and its next call is answered", async () => {
  const flood = `
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
kept = []
for _ in range(3000):
    try:
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
    except OSError:
        continue
    kept.append(s)
print("opened", len(kept), flush=True)
time.sleep(1)`;
  const descriptors = () => readdirSync(`/proc/${stage.gateway.pid}/fd`).length;
  const before = descriptors();
  for (const port of [PORT, PORT + 1]) {
    const { out } = await stage.run.exec(["python3", "-c", flood, HOST, `${port}`]);
    expect(out).toStartWith("opened");
    expect(descriptors()).toBeLessThan(before + 1100);
  }
  expect((await stage.curl("https://files.test/hello.txt")).code).toBe(0);
});

test("a restart lets nobody in until api says so, and then goes on with what was carried", async () => {
  const { client, gateway, spec } = stage;
  const { start } = await client.call("granted", {});
  const records = async (of: string | null) =>
    client.call("records", { start: of, after: [{ run: spec.run, seq: 0 }], timeout_ms: 0 });
  const before = await records(start);
  gateway.kill("SIGKILL");
  await gateway.exited;
  await stage.restart();
  expect(await client.call("granted", {})).toMatchObject({ runs: [] });
  // Whoever has asked for nothing meanwhile learns of it all the same.
  expect(await failureOf(records(start))).toContain("the gateway has restarted");
  expect(
    (await stage.curl("https://files.test/hello.txt", stage.proxied(), ["--connect-timeout", "2"])).code,
  ).not.toBe(0);
  await client.call("grant", spec);
  expect((await stage.curl("https://files.test/hello.txt")).code).toBe(0);
  const after = await records(null);
  expect(after.records.slice(0, before.records.length)).toEqual(before.records);
});

test("only api and root may ask it anything", async () => {
  const { instance } = stage;
  const path = instance.sockets.gateway;
  const ask = `
import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1])
s.sendall(b'{"id":1,"op":"health","args":{}}\\n')
print(s.recv(100).decode())`;
  const as = (user: string) =>
    Bun.spawnSync([
      "setpriv",
      `--reuid=${user}`,
      "--regid=cofferdam",
      "--clear-groups",
      "/usr/bin/python3",
      "-c",
      ask,
      path,
    ]);
  expect(as("cofferdam").stdout.toString()).toContain('"ok":true');
  for (const user of ["cofferdam-gw", "cofferdam-tenant", "nobody"]) {
    expect(as(user).stdout.toString()).not.toContain('"ok":true');
  }
});

test("a credential is in the gateway's memory, and nowhere that another could look", async () => {
  const { instance, client, gateway, run, spec, token } = stage;
  const { public_key } = await client.call("publicKey", {});
  const base_url = "https://api.files.test";
  const grant = await sealLlmGrant(Buffer.from(public_key, "base64"), SECRET, { base_url });
  const llm = [grant];
  await client.call("grant", { ...spec, llm });
  const asked = await run.exec([
    "curl",
    "-sS",
    "-H",
    `x-api-key: ${token}`,
    "-d",
    '{"model":"claude-sonnet-4-5","max_tokens":5,"messages":[]}',
    `http://${HOST}:${PORT}/v1/messages`,
  ]);
  const wrong = await failureOf(
    client.call("grant", { ...spec, llm: [{ ...grant, base_url: "https://x.test" }] }),
  );

  // The control: root finds it in that one process.
  expect(isInMemory(gateway.pid, SECRET)).toBe(true);
  const { uid } = roleUser("cofferdam-gw");
  for (const user of ["cofferdam-gw", "cofferdam", "cofferdam-tenant"]) {
    for (const file of ["mem", "environ", "maps"]) {
      const reading = `open("/proc/${gateway.pid}/${file}", "rb").read(1)`;
      const command = [
        "setpriv",
        `--reuid=${user}`,
        `--regid=${user}`,
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
        reading,
      ];
      expect([user, file, Bun.spawnSync(command).exitCode]).toEqual([user, file, 1]);
    }
  }
  // Not dumpable: the kernel gives what is the process's to root, and makes no core of it.
  expect(statSync(`/proc/${gateway.pid}/mem`).uid).toBe(0);
  expect(readFileSync(`/proc/${gateway.pid}/status`, "utf8")).toContain(`Uid:\t${uid}\t`);

  const files = [stage.data, instance.sockets.dir].flatMap((root) =>
    readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name)),
  );
  expect(files).toContain(join(instance.gateway.journals, `${spec.run}.jsonl`));
  expect(files).not.toContain(instance.publishedGatewayKey);
  gateway.kill("SIGTERM");
  await gateway.exited;
  const log = await stage.stderr;
  expect(log).toContain('"message":"ready"');
  const key = readFileSync(instance.gateway.keyFile);
  for (const [name, text] of [
    ...files.map((file) => [file, readFileSync(file)] as const),
    ["log", Buffer.from(log)] as const,
    ["answer", Buffer.from(asked.out)] as const,
    ["error", Buffer.from(wrong)] as const,
  ]) {
    expect([name, text.includes(SECRET), text.includes(token)]).toEqual([name, false, false]);
    if (name !== instance.gateway.keyFile) expect([name, text.includes(key)]).toEqual([name, false]);
  }
});

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { credentialId } from "../../../src/ids.ts";
import { publishGatewayKey } from "../../../src/instance/gateway-key.ts";
import type { Instance } from "../../../src/instance/instance.ts";
import { openKeyring } from "../../../src/instance/keyring.ts";
import { createInstance, ensureRunDirectories, publishConfig } from "../../../src/instance/setup.ts";
import { roleUser } from "../../../src/kernel/users.ts";
import type { RunGrant } from "../../../src/protocol/gateway.ts";
import { sealTo } from "../../../src/protocol/seal.ts";
import { createGatewayClient, type GatewayClient } from "../../../src/runs/gateway-client.ts";
import { createAuthority } from "../../fixtures/authority.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { Receiver } from "../../fixtures/notify-receiver.ts";
import { makeRegistries } from "../../fixtures/registries.ts";
import {
  HOST,
  isInMemory,
  NEAR,
  RUN,
  startRunSide,
  startWeb,
  WEB,
  WEB_OTHER,
  type RunSide,
  type Web,
} from "../../fixtures/web.ts";
import { makeRun } from "../../fixtures/run-grant.ts";
import { ensureUsers } from "../../fixtures/users.ts";

setDefaultTimeout(60_000);
const DATA = "/scratch/egress/data";
const MAIN = join(import.meta.dir, "../../../src/main.ts");
const PORT = 4180;
const NOTIFY = "/run/notify-egress";
const CA = "/tmp/ca.pem";
const SECRET = `sk-ant-api03-${"5ec2e7".repeat(8)}`;
const quiet = { info() {}, warn() {}, error() {} };

/** Where names lead. The last one leads elsewhere each time it is asked for. */
const NAMES: Record<string, readonly string[]> = {
  "files.test": [WEB],
  "other.test": [WEB],
  "two.test": [WEB_OTHER],
  "inner.test": ["10.1.2.3"],
  "neighbour.test": ["10.42.8.2"],
  "itself.test": [RUN],
  "gateway.test": [HOST],
  "near.test": [NEAR],
  "loop.test": ["127.0.0.1"],
  "metadata.test": ["169.254.169.254"],
};
const REBINDING = "rebinding.test";
const ALLOWED = [...Object.keys(NAMES), REBINDING].filter((name) => name !== "other.test");

const made: {
  instance?: Instance;
  run?: RunSide;
  web?: Web;
  client?: GatewayClient;
  notices?: Receiver;
  gateway?: ReturnType<typeof start>;
  stderr?: Promise<string>;
} = {};
const ready = () => made as Required<typeof made>;
const { token, spec } = makeRun({
  host: HOST,
  peer: RUN,
  egress: { allow: ALLOWED.map((host) => ({ host, port: 443 })), max_bytes: null, max_connections: 64 },
});

function start(instance: Instance) {
  const { secret } = openKeyring(instance.keyringFile, readFileSync(instance.masterKeyFile));
  publishGatewayKey(instance, secret);
  return Bun.spawn([process.execPath, MAIN, "gateway", "--data", DATA], {
    env: { PATH: "/usr/bin:/bin", NOTIFY_SOCKET: NOTIFY, WATCHDOG_USEC: "30000000" },
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
}

async function begin(): Promise<void> {
  const { instance, notices } = ready();
  made.gateway = start(instance);
  made.stderr = made.gateway.stderr.text();
  await notices.until("READY=1");
}

beforeAll(async () => {
  ensureUsers();
  made.run = startRunSide();
  made.web = await startWeb((name, before) =>
    name === REBINDING ? [before === 0 ? WEB : "127.0.0.1"] : (NAMES[name] ?? null),
  );
  const authority = createAuthority();
  writeFileSync(CA, authority.ca);
  const names = ["files.test", "other.test", "two.test", REBINDING, "near.test"].map((name) => `DNS:${name}`);
  const pair = authority.issue(...names);
  makeRegistries("/tmp/registries", "files.test");
  mkdirSync("/tmp/two");
  writeFileSync("/tmp/two/hello.txt", "the other\n");
  await made.web.serve(WEB, { directory: "/tmp/registries", ...pair });
  await made.web.serve(WEB_OTHER, { directory: "/tmp/two", ...pair });
  made.instance = createInstance(DATA);
  ensureRunDirectories(made.instance);
  publishConfig(made.instance, null);
  made.notices = await Receiver.listen(NOTIFY);
  await begin();
  made.client = createGatewayClient({ path: made.instance.sockets.gateway, log: quiet });
  await made.client.call("grant", spec);
});

afterAll(async () => {
  made.client?.close();
  made.gateway?.kill();
  await made.gateway?.exited;
  made.notices?.close();
  await made.web?.[Symbol.asyncDispose]();
  made.run?.[Symbol.dispose]();
});

const proxied = (shown = token) => {
  const url = `http://run:${shown}@${HOST}:${PORT + 1}`;
  return { HTTPS_PROXY: url, https_proxy: url };
};
const curl = (url: string, env: Record<string, string> = proxied(), more: string[] = []) =>
  ready().run.exec(["curl", "-sSv", "--max-time", "20", "--cacert", CA, ...more, url], { env });

describe("programs that ask by the web proxy", () => {
  test("curl", async () => {
    const { code, out } = await curl("https://files.test/hello.txt");
    expect([code, out]).toEqual([0, expect.stringContaining("hello\n")]);
    // The control: without the proxy there is no way.
    expect((await curl("https://files.test/hello.txt", {}, ["--connect-timeout", "2"])).code).not.toBe(0);
  });

  test("git", async () => {
    const env = { ...proxied(), GIT_SSL_CAINFO: CA };
    const cloned = await ready().run.exec(["git", "clone", "https://files.test/demo.git", "/tmp/cloned"], {
      env,
    });
    expect(cloned).toMatchObject({ code: 0 });
    expect(readFileSync("/tmp/cloned/file.txt", "utf8")).toBe("content\n");
    const refused = await ready().run.exec(["git", "clone", "https://other.test/demo.git", "/tmp/no"], {
      env,
    });
    expect([refused.code, refused.out]).toEqual([128, expect.stringContaining("403")]);
  });

  test.skipIf(Bun.which("pip3") === null)("pip", async () => {
    const install = async (host: string, target: string) => {
      const options = ["--no-cache-dir", "--retries", "1", "--target", target, "--cert", CA];
      return ready().run.exec(["pip3", "install", ...options, "-i", `https://${host}/pip/simple`, "demo"], {
        env: { ...proxied(), PIP_DISABLE_PIP_VERSION_CHECK: "1" },
      });
    };
    expect(await install("files.test", "/tmp/pip")).toMatchObject({ code: 0 });
    expect(readFileSync("/tmp/pip/demo.py", "utf8")).toContain("demo");
    // It shows the reason, which is in the answer's first line.
    const refused = await install("other.test", "/tmp/pip-no");
    expect(refused.code).not.toBe(0);
    expect(refused.out).toContain("other.test:443 is not among the hosts that this run may reach");
  });

  test.skipIf(Bun.which("npm") === null)("npm", async () => {
    mkdirSync("/tmp/npm");
    const env = { ...proxied(), npm_config_cafile: CA };
    const install = (host: string) =>
      ready().run.exec(
        ["npm", "install", "--no-audit", "--fetch-retries=0", `--registry=https://${host}/npm/`, "demo"],
        {
          env,
          cwd: "/tmp/npm",
        },
      );
    const installed = await install("files.test");
    expect([installed.code, installed.out]).toEqual([0, expect.any(String)]);
    expect(readFileSync("/tmp/npm/node_modules/demo/demo.js", "utf8")).toContain("demo");
    const refused = await install("other.test");
    expect([refused.code === 0, refused.out]).toEqual([false, expect.stringContaining("403")]);
  });

  test.skipIf(Bun.which("cargo") === null)("cargo", async () => {
    mkdirSync("/tmp/cargo/.cargo", { recursive: true });
    mkdirSync("/tmp/cargo/src");
    writeFileSync("/tmp/cargo/src/lib.rs", "");
    const registry = '[registries.test]\nindex = "sparse+https://files.test/cargo/index/"\n';
    writeFileSync("/tmp/cargo/.cargo/config.toml", registry);
    const manifest = '[package]\nname = "mine"\nversion = "0.1.0"\nedition = "2021"\n';
    const dependency = '[dependencies]\ndemo = { version = "1", registry = "test" }\n';
    writeFileSync("/tmp/cargo/Cargo.toml", manifest + dependency);
    const fetched = await ready().run.exec(["cargo", "fetch"], {
      env: {
        ...proxied(),
        CARGO_HTTP_CAINFO: CA,
        CARGO_HOME: "/tmp/cargo-home",
        RUSTUP_HOME: "/root/.rustup",
      },
      cwd: "/tmp/cargo",
    });
    expect([fetched.code, fetched.out]).toEqual([0, expect.stringContaining("Downloaded demo v1.0.0")]);
  });
});

describe("where it does not lead", () => {
  test.each([
    ["inner.test", "leads to an address of a private network"],
    ["neighbour.test", "leads to an address of this host itself"],
    ["itself.test", "leads to an address of this host itself"],
    ["gateway.test", "leads to an address of this host itself"],
    ["near.test", "leads to an address of this host itself"],
    ["loop.test", "leads to a loopback address"],
    ["metadata.test", "leads to a link-local address"],
  ])("%s %s", async (host, why) => {
    const { code, out } = await curl(`https://${host}/`);
    expect([code, out]).toEqual([56, expect.stringContaining(`403 Forbidden: ${host} ${why}`)]);
  });

  test("what listens on this host, on every address, is reached by the host itself and by no run", async () => {
    using listener = Bun.serve({
      hostname: "0.0.0.0",
      port: 443,
      tls: createAuthority().issue("DNS:near.test"),
      fetch: () => new Response("of the host"),
    });
    const own = await fetch(`https://${NEAR}:${listener.port}/`, { tls: { rejectUnauthorized: false } });
    expect(await own.text()).toBe("of the host");
    for (const host of ["near.test", "gateway.test", "loop.test"]) {
      expect((await curl(`https://${host}/`, proxied(), ["-k"])).out).not.toContain("of the host");
    }
  });

  test("a name that leads elsewhere a moment later is dialled where it was judged", async () => {
    expect((await curl(`https://${REBINDING}/hello.txt`)).out).toContain("hello\n");
    expect((await curl(`https://${REBINDING}/hello.txt`)).out).toContain("leads to a loopback address");
  });

  test("TLS for another name of the same server is cut; for the right one it is not", async () => {
    const elsewhere = ["--connect-to", "other.test:443:files.test:443"];
    const { code, out } = await curl("https://other.test/hello.txt", proxied(), elsewhere);
    expect([code, out]).toEqual([35, expect.stringContaining("unrecognized name")]);
    expect((await curl("https://files.test/hello.txt")).code).toBe(0);
  });

  test("no token, a wrong one, and one from elsewhere open nothing", async () => {
    expect((await curl("https://files.test/", proxied("wrong"))).out).toContain(
      "407 Proxy Authentication Required",
    );
    // From the host itself, whose address on that wire is not the run's.
    const here = Bun.spawnSync(["curl", "-sSv", "--cacert", CA, "https://files.test/"], {
      env: { PATH: "/usr/bin:/bin", ...proxied() },
    });
    expect(here.stderr.toString()).toContain("407 Proxy Authentication Required: Come from this run");
    const models = Bun.spawnSync([
      "curl",
      "-sS",
      "-H",
      `x-api-key: ${token}`,
      `http://${HOST}:${PORT}/v1/models`,
    ]);
    expect(models.stdout.toString()).toContain("authentication_error");
    const inRun = ["curl", "-sS", "-H", `x-api-key: ${token}`, `http://${HOST}:${PORT}/v1/models`];
    expect((await ready().run.exec(inRun)).out).toContain("permission_error");
  });
});

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
  const descriptors = () => readdirSync(`/proc/${ready().gateway.pid}/fd`).length;
  const before = descriptors();
  for (const port of [PORT, PORT + 1]) {
    const { out } = await ready().run.exec(["python3", "-c", flood, HOST, `${port}`]);
    expect(out).toStartWith("opened");
    expect(descriptors()).toBeLessThan(before + 1100);
  }
  expect((await curl("https://files.test/hello.txt")).code).toBe(0);
});

test("a restart lets nobody in until api says so, and then goes on with what was carried", async () => {
  const { client, gateway } = ready();
  const before = await client.call("records", { after: [{ run: spec.run, seq: 0 }], timeout_ms: 0 });
  gateway.kill("SIGKILL");
  await gateway.exited;
  await begin();
  expect(await client.call("granted", {})).toEqual({ runs: [] });
  expect((await curl("https://files.test/hello.txt", proxied(), ["--connect-timeout", "2"])).code).not.toBe(
    0,
  );
  await client.call("grant", spec);
  expect((await curl("https://files.test/hello.txt")).code).toBe(0);
  const after = await client.call("records", { after: [{ run: spec.run, seq: 0 }], timeout_ms: 0 });
  expect(after.records.slice(0, before.records.length)).toEqual(before.records);
});

test("a reload takes other networks that it may dial", async () => {
  const { instance, gateway, notices } = ready();
  const config = "/tmp/config.toml";
  writeFileSync(config, '[egress]\nallow_private = ["10.1.0.0/16"]\n');
  publishConfig(instance, config);
  gateway.kill("SIGHUP");
  await notices.until("RELOADING=1");
  await notices.until("READY=1");
  // It is dialled now, and nothing is there; another run's network is not, whatever is allowed.
  expect((await curl("https://inner.test/")).out).toContain(
    "502 Bad Gateway: inner.test:443 could not be reached",
  );
  expect((await curl("https://neighbour.test/")).out).toContain("leads to an address of this host itself");
});

test("only api and root may ask it anything", async () => {
  const { instance } = ready();
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
      "python3",
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
  const { instance, client, gateway, run } = ready();
  const credential = credentialId.make();
  const { public_key } = await client.call("publicKey", {});
  const plain = JSON.stringify({ secret: SECRET, base_url: "https://api.files.test" });
  const sealed = await sealTo(Buffer.from(public_key, "base64"), Buffer.from(plain), credential);
  const llm: RunGrant["llm"] = [
    {
      credential,
      sealed: Buffer.from(sealed).toString("base64"),
      dialect: "anthropic",
      base_url: "https://api.files.test",
      models: null,
      max_usd_nano: null,
      max_output_tokens: null,
      max_requests: null,
      provider_tools: false,
      requests_per_minute: null,
      record_content: false,
    },
  ];
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
    client.call("grant", { ...spec, llm: [{ ...llm[0]!, base_url: "https://x.test" }] }),
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
        "python3",
        "-c",
        reading,
      ];
      expect([user, file, Bun.spawnSync(command).exitCode]).toEqual([user, file, 1]);
    }
  }
  // Not dumpable: the kernel gives what is the process's to root, and makes no core of it.
  expect(statSync(`/proc/${gateway.pid}/mem`).uid).toBe(0);
  expect(readFileSync(`/proc/${gateway.pid}/status`, "utf8")).toContain(`Uid:\t${uid}\t`);

  const files = [DATA, instance.sockets.dir].flatMap((root) =>
    readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name)),
  );
  expect(files).toContain(join(instance.gateway.journals, `${spec.run}.jsonl`));
  expect(files).not.toContain(instance.publishedGatewayKey);
  gateway.kill("SIGTERM");
  await gateway.exited;
  const log = await ready().stderr;
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

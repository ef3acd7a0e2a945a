import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { binary, startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { failureOf } from "../fixtures/failure.ts";
import { seededRandom } from "../fixtures/random.ts";
import { startSqld, type Sqld } from "../fixtures/sqld.ts";
import { until } from "../fixtures/until.ts";

/* The built program, confined as it is, with a libSQL server that asks for a token. */
setDefaultTimeout(90_000);

let server: Sqld;
let appliance: Appliance;
const config = () => `${server.config()}[exec]\npool = 1\n[rate]\nper_key = "0"\nper_address = "0"\n`;
beforeAll(async () => {
  server = await startSqld({ auth: true });
  appliance = await startAppliance({ config: config() });
});
afterAll(async () => {
  server.go();
  expect(await appliance.stop()).toBe(0);
  await server[Symbol.asyncDispose]();
});

const ready = async () => {
  const answer = await fetch(`${appliance.keys.base_url}/readyz`);
  return { status: answer.status, ...((await answer.json()) as { reasons?: string[] }) };
};
/** Not by readyz, which keeps what it found for a second. */
const isBack = async () => (await appliance.call("/v1/files")).status === 200;
const write = (path: string, content: string) => appliance.call("/write", { json: { path, content } });

interface Shown {
  readonly type: string;
  readonly seq: number;
  readonly data: { readonly path?: string };
}
async function events(): Promise<Shown[]> {
  const { stdout } = await appliance.cofferdam([
    "event",
    "list",
    "--limit",
    "1000",
    "--json",
    "--workspace",
    appliance.keys.workspace_id,
  ]);
  return (JSON.parse(stdout) as { events: Shown[] }).events;
}

test("it works, keeps nothing in a file, and has its doctor look at the server", async () => {
  expect((await write("a.txt", "hello")).status).toBe(200);
  const exec = await appliance.call("/v1/exec", { json: { command: "cat workspace/a.txt" } });
  expect(await exec.json()).toMatchObject({ stdout: "hello", exit_code: 0 });
  expect((await events()).map(({ type }) => type)).toEqual(
    expect.arrayContaining(["file.written", "exec.completed", "key.created"]),
  );
  expect((await appliance.cofferdam(["doctor"])).stdout).toMatch(/ok +database +its server answers/);
  await appliance.cofferdam(["event", "verify"]);
  for (const dir of ["api", "api/state"])
    expect(existsSync(join(appliance.data, dir, "cofferdam.db"))).toBe(false);
});

test("every kind of command works over it", async () => {
  const json = async (...args: string[]) =>
    JSON.parse((await appliance.cofferdam([...args, "--json"])).stdout) as Record<string, unknown>;
  const { snapshot_id: snapshot } = await json("snapshot", "create", "test");
  await write("a.txt", "changed");
  await appliance.cofferdam(["snapshot", "restore", "test", String(snapshot), "--yes"]);
  expect(await (await appliance.call("/files/a.txt")).text()).toBe("hello");
  await appliance.cofferdam(["snapshot", "verify", "test"]);
  await appliance.cofferdam(["snapshot", "delete", "test", String(snapshot)]);
  await appliance.cofferdam(["gc"]);
  expect(JSON.stringify(await json("namespace", "list"))).toContain("test");
  expect(JSON.stringify(await json("key", "list"))).toContain("workspace");
  expect(JSON.stringify(await json("webhook", "list"))).toContain("webhooks");
  expect(JSON.stringify(await json("login", "list"))).toContain("logins");
  await write("b.txt", "of another");
  await appliance.cofferdam(["event", "verify"]);
});

test("a server that hangs: 503 with Retry-After, status says why, and all goes on when it is back", async () => {
  server.hang();
  const first = await write("b.txt", "1");
  expect(first.status).toBe(503);
  expect(Number(first.headers.get("retry-after"))).toBeGreaterThan(0);
  const paths = ["/v1/files", "/v1/me", `/v1/workspaces/${appliance.keys.workspace_id}/events`];
  for (const path of paths) {
    const answer = await appliance.call(
      path,
      path.includes("events") ? { key: appliance.keys.admin_key } : {},
    );
    expect([path, answer.status, answer.headers.has("retry-after")]).toEqual([path, 503, true]);
    expect(((await answer.json()) as { detail: string }).detail).toContain("The database server");
  }
  expect(await ready()).toMatchObject({ status: 503, reasons: expect.arrayContaining(["database"]) });
  expect((await appliance.cofferdam(["status"])).stdout).toContain("The database server");
  const api = appliance.pid("api");
  server.go();
  await until(isBack);
  expect(appliance.pid("api")).toBe(api);
  expect((await write("b.txt", "2")).status).toBe(200);
});

test("kills of the server below a load: each write that was acknowledged is there, with one event", async () => {
  const seed = Number(process.env.SEED ?? Date.now());
  const random = seededRandom(seed);
  const acknowledged: string[] = [];
  const statuses = new Map<number, number>();
  const over = { now: false };
  const worker = async (id: number) => {
    for (let n = 0; !over.now; n++) {
      const path = `load-${id}-${n}.txt`;
      const { status } = await write(path, path);
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      if (status === 200) acknowledged.push(path);
      // A client that honours Retry-After, but is in a hurry.
      else await Bun.sleep(100);
    }
  };
  const workers = Array.from({ length: 6 }, (_, id) => worker(id));
  for (let kill = 0; kill < 4; kill++) {
    await Bun.sleep(200 + random.int(300));
    await server.kill();
    await Bun.sleep(random.int(400));
    await server.start();
    await until(isBack);
  }
  over.now = true;
  await Promise.all(workers);
  const kinds = [...statuses.keys()].toSorted((a, b) => a - b);
  expect({ seed, kinds }).toEqual({ seed, kinds: kinds.filter((status) => [200, 503].includes(status)) });
  expect(acknowledged.length).toBeGreaterThan(20);

  await appliance.cofferdam(["event", "verify"]);
  const { stdout } = await appliance.cofferdam([
    "event",
    "export",
    "--workspace",
    appliance.keys.workspace_id,
  ]);
  const written = new Map<string, number>();
  for (const line of stdout.trim().split("\n")) {
    const { event } = JSON.parse(line) as { event?: Shown };
    if (event?.type !== "file.written") continue;
    const path = event.data.path?.replace(/^workspace\//, "") ?? "";
    written.set(path, (written.get(path) ?? 0) + 1);
  }
  expect({ seed, wrong: acknowledged.filter((path) => written.get(path) !== 1) }).toEqual({
    seed,
    wrong: [],
  });
  for (const path of acknowledged.filter((_, index) => index % 20 === 0)) {
    const answer = await appliance.call(`/files/${path}`);
    expect(await answer.text()).toBe(path);
  }
});

test("a backup holds the server's database", async () => {
  const target = `${appliance.data}.backup`;
  await appliance.cofferdam(["backup", "create", "--to", target]);
  const { stdout } = await appliance.cofferdam(["backup", "verify", "--from", target]);
  expect(stdout).toContain("is whole");
  expect(Number(/events in unbroken chains: ([\d,]+)/.exec(stdout)?.[1]?.replace(",", ""))).toBeGreaterThan(
    20,
  );
});

test("api started anew while the server is away waits for it, and half of it never answers", async () => {
  await server.kill();
  const before = appliance.pid("api");
  process.kill(before, "SIGKILL");
  await until(async () => (await appliance.log()).includes("waits for the database server"));
  expect(await fetch(`${appliance.keys.base_url}/healthz`).catch(() => "nobody")).toBe("nobody");
  await server.start();
  await until(() => isBack().catch(() => false), 30_000);
  expect(appliance.pid("api")).not.toBe(before);
  expect((await write("c.txt", "1")).status).toBe(200);
});

test("another appliance and a wrong token are refused with a sentence", async () => {
  const refused = async (data: string, text: string) => {
    writeFileSync(`${data}.toml`, text);
    const serve = Bun.spawn(
      [binary(), "serve", "--data", data, "--listen", "127.0.0.1:0", "--config", `${data}.toml`],
      { env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" }, stdin: "ignore", stdout: "ignore", stderr: "pipe" },
    );
    const stderr = await serve.stderr.text();
    return { code: await serve.exited, stderr };
  };
  const another = `${appliance.data}-another`;
  const other = await refused(another, config());
  expect(other.stderr).toContain("belongs to another appliance");
  expect(other.code).toBe(1);
  // Said once, not until nobody reads it.
  expect(other.stderr.split("belongs to another appliance").length).toBeLessThan(4);
  writeFileSync(`${another}.token`, "not.a.token", { mode: 0o600 });
  const text = config().replace(/auth_token_file = .*/, `auth_token_file = "${another}.token"`);
  expect((await refused(another, text)).stderr).toContain("refuses the token in [database] auth_token_file");
  expect((await refused(another, text.replace(/http:\/\/127.0.0.1/, "http://10.0.0.1"))).stderr).toContain(
    "in the clear beyond this host",
  );
});

test("a database moves from its file to a server, once the appliance is stopped", async () => {
  await using empty = await startSqld({ auth: true });
  const text = `${empty.config()}[exec]\npool = 0\n`;
  const local = await startAppliance({ config: "[exec]\npool = 0\n" });
  const file = `${local.data}.server.toml`;
  writeFileSync(file, text);
  const move = (expect = 0) => local.cofferdam(["database", "move", "--config", file], { expect });
  expect((await move(1)).stderr).toContain("The appliance runs; stop it first");
  expect((await local.call("/write", { json: { path: "a", content: "kept" } })).status).toBe(200);
  await local.stop();
  // Not by itself: the server's database is empty.
  const early = Bun.spawn(
    [binary(), "serve", "--data", local.data, "--listen", "127.0.0.1:0", "--config", file],
    {
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    },
  );
  expect(await early.stderr.text()).toContain("there is a database in");
  await early.exited;
  expect((await move()).stdout).toContain("rows are on the server now");
  expect(await failureOf(startAppliance({ data: local.data, config: "[exec]\npool = 0\n" }))).toContain(
    "the database was moved to a server",
  );
  expect((await move(1)).stderr).toContain("nothing is to be moved");
  const moved = await startAppliance({ data: local.data, config: text });
  expect(await (await moved.call("/files/a")).text()).toBe("kept");
  await moved.cofferdam(["event", "verify"]);
  // It ends in order without its database, too.
  await empty.kill();
  expect(await moved.stop()).toBe(0);
});

test("the token is in no log", () => {
  const log = readFileSync(`${appliance.data}.log`, "utf8");
  expect(log).not.toContain(server.token?.split(".")[2] ?? "?");
});

import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { generateX25519Identity, identityToRecipient } from "age-encryption";
import { startS3Server } from "../fixtures/s3-server.ts";
import { binary, startAppliance, type Appliance } from "../fixtures/appliance.ts";

// Programs that start take their time on a busy machine.
setDefaultTimeout(60_000);

/* A backup of an appliance that is in use, and another appliance that becomes it. In order. */
const CONFIG = "[exec]\npool = 1\n";
const MIB = 1024 * 1024;
let original: Appliance;
let target: string;
let identityFile: string;
let recipient: string;
const running = new Set<Appliance>();
beforeAll(async () => {
  original = await start({ config: CONFIG });
  target = `${original.data}.backups`;
  const identity = await generateX25519Identity();
  recipient = await identityToRecipient(identity);
  identityFile = `${original.data}.identity`;
  writeFileSync(identityFile, `# of the test\n${identity}\n`, { mode: 0o600 });
});
afterAll(async () => {
  for (const appliance of running) await appliance.stop();
});

async function start(options: Parameters<typeof startAppliance>[0]): Promise<Appliance> {
  const appliance = await startAppliance(options);
  running.add(appliance);
  return appliance;
}

async function stop(appliance: Appliance): Promise<void> {
  running.delete(appliance);
  await appliance.stop();
}

/** An admin command that needs no appliance; its stdout and last line of stderr. */
async function cofferdam(...args: string[]) {
  const child = Bun.spawn([binary(), ...args], {
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { out, err: err.trim().split("\n").at(-1) ?? "", code };
}

async function json(appliance: Appliance, ...args: string[]) {
  return JSON.parse((await appliance.cofferdam([...args, "--json"])).stdout) as Record<string, unknown>;
}

const create = (...args: string[]) =>
  json(original, "backup", "create", "--to", target, "--recipient", recipient, ...args);

/** What does not change with each try of a delivery. */
async function webhooksOf(appliance: Appliance): Promise<unknown[]> {
  const answer = await json(appliance, "webhook", "list", "--workspace", original.keys.workspace_id);
  const hooks = answer["webhooks"] as Record<string, unknown>[];
  return hooks.map(({ webhook_id, url, enabled, created_at }) => ({ webhook_id, url, enabled, created_at }));
}

async function exec(appliance: Appliance, namespace: string, command: string): Promise<string> {
  const answer = await appliance.call("/v1/exec", { namespace, json: { command } });
  expect(answer.status).toBe(200);
  return ((await answer.json()) as { stdout: string }).stdout;
}

test("a first backup has all; the next one only what is new", async () => {
  await exec(
    original,
    "alice",
    "cd workspace; mkdir -p a/b; echo one >a/b/one; ln -s a/b link; head -c 9000000 /dev/urandom >big",
  );
  await exec(original, "bob", "echo bob >workspace/bob");
  expect(
    (await original.call("/v1/snapshots", { namespace: "alice", json: { label: "first" } })).status,
  ).toBe(200);
  await original.cofferdam(["webhook", "create", "https://1.1.1.1/hook"]);
  await original.cofferdam(["workspace", "create", "second"]);
  const first = await create();
  expect(first).toMatchObject({ namespaces: 2, opened_by: "recipient", lacking: 0 });
  expect(first["bytes_added"]).toBeGreaterThan(9_000_000);
  await exec(original, "alice", "echo two >workspace/two");
  const second = await create();
  expect(second["bytes_added"]).toBeGreaterThan(0);
  expect(second["bytes_added"]).toBeLessThan(100_000);
  const { ok, backups } = await json(original, "backup", "verify", "--from", target, "--all");
  expect({ ok, backups }).toMatchObject({ ok: true, backups: [{ faults: [] }, { faults: [] }] });
  const list = await original.cofferdam(["backup", "list", "--from", target]);
  expect(list.stdout).toMatch(/backup-\S+ +\S+ \S+ +2 /);
  const told = await original.cofferdam(["event", "list", "--appliance", "--json"]);
  expect(told.stdout).toContain("backup.created");
});

test("a backup that is killed anywhere leaves those before whole, and the next one goes on from there", async () => {
  await exec(original, "alice", "head -c 20000000 /dev/urandom >workspace/more");
  let kills = 0;
  for (let waitMs = 40; kills < 7; waitMs += 70) {
    const child = Bun.spawn([binary(), "backup", "create", "--to", target, "--data", original.data], {
      stdout: "ignore",
      stderr: "ignore",
    });
    const ended = await Promise.race([child.exited, Bun.sleep(waitMs).then(() => null)]);
    if (ended !== null) {
      expect(ended).toBe(0);
      break;
    }
    child.kill("SIGKILL");
    await child.exited;
    kills += 1;
  }
  expect(kills).toBeGreaterThan(2);
  await create("--keep", "1");
  const { ok, backups } = await json(original, "backup", "verify", "--from", target, "--all");
  expect({ ok, count: (backups as unknown[]).length }).toEqual({ ok: true, count: 1 });
  // Nothing of the killed ones is left, nor of the one that was removed; nor in the appliance.
  const files = readdirSync(join(target, "backups"), { recursive: true, withFileTypes: true });
  expect(
    new Set(
      files
        .filter((entry) => entry.isFile())
        .map((entry) => entry.parentPath.split("/backup-")[1]?.slice(0, 19)),
    ).size,
  ).toBe(1);
  expect(readdirSync(join(original.data, "api/state")).filter((name) => name.includes("backup"))).toEqual([]);
}, 60_000);

test("a blob that has rotted in the target is found, taken out, and put there anew", async () => {
  const blobs = readdirSync(target, { recursive: true, encoding: "utf8" }).filter((name) =>
    /[0-9a-f]{64}$/.test(name),
  );
  const rotten = join(target, blobs[0] ?? "");
  const bytes = readFileSync(rotten);
  bytes.writeUInt8(bytes.readUInt8(bytes.length >> 1) ^ 4, bytes.length >> 1);
  writeFileSync(rotten, bytes);
  const verify = ["backup", "verify", "--from", target];
  expect((await original.cofferdam([...verify, "--repair"], { expect: 1 })).stdout).toContain(
    `  ${blobs[0]}: it is not`,
  );
  await create();
  expect((await original.cofferdam(verify)).stdout).toContain("is whole");
  // A backup that can't be read at all does not hide the others.
  const lost = "backup-20200101t000000000z-aaaaaa";
  mkdirSync(join(target, "backups", lost));
  writeFileSync(join(target, "backups", lost, "index"), "nothing of the kind");
  const list = await original.cofferdam(["backup", "list", "--from", target], { expect: 1 });
  expect(list.stderr).toContain(`${lost}/index is damaged`);
  expect(list.stdout).toMatch(/backup-2\S+ +\S+ \S+ +2 /);
  rmSync(join(target, "backups", lost), { recursive: true });
});

test("what a thief sees of it: no name, no content, no event", async () => {
  const planted = ["alice", "second", "workspace"];
  const objects = readdirSync(target, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  );
  expect(objects.length).toBeGreaterThan(10);
  const all = Buffer.concat(
    objects.map((entry) => readFileSync(join(entry.parentPath, entry.name))),
  ).toString("latin1");
  expect(planted.filter((text) => all.includes(text))).toEqual([]);
  // So that this would find them: it does in the copy that verify makes.
  expect(readFileSync(join(original.data, "api/state/cofferdam.db-wal"), "latin1")).toContain("alice");
});

test("without what opens it, nothing is restored; nor over an appliance that runs or holds anything", async () => {
  const data = `${original.data}-other`;
  await cofferdam("prepare", "--data", data);
  const restore = (...args: string[]) => cofferdam("restore", target, "--data", data, ...args);
  expect(await restore()).toMatchObject({
    code: 2,
    err: expect.stringContaining("Say what opens the backup"),
  });
  writeFileSync(`${data}.phrase`, "not the passphrase\n");
  expect((await restore("--passphrase-file", `${data}.phrase`)).err).toContain("not for a passphrase");
  expect((await restore("--master-key", join(data, "master.key"))).err).toContain(
    "not opened by this master key",
  );
  const other = await generateX25519Identity();
  writeFileSync(`${data}.identity`, other);
  expect((await restore("--identity-file", `${data}.identity`)).err).toContain("does not open the backup");
  const over = await cofferdam("restore", target, "--data", original.data, "--identity-file", identityFile);
  expect(over).toMatchObject({ code: 1, err: expect.stringContaining("runs") });
});

test("another appliance becomes it: keys, files, snapshots, events and webhooks", async () => {
  const events = (await original.cofferdam(["event", "verify"])).stdout;
  const hooks = await webhooksOf(original);
  const snapshots = await (await original.call("/v1/snapshots", { namespace: "alice" })).json();
  const tree = "cd workspace; find . -printf '%p %y %m %s %l\\n' | sort; md5sum big more two";
  const alice = await exec(original, "alice", tree);
  await create();
  const sealed = original.keysFile;
  await stop(original);
  const refused = await cofferdam(
    "restore",
    target,
    "--data",
    original.data,
    "--identity-file",
    identityFile,
  );
  expect(refused.err).toContain("is not empty");

  const data = `${original.data}-new`;
  await cofferdam("prepare", "--data", data);
  const restored = await cofferdam("restore", target, "--data", data, "--identity-file", identityFile);
  expect(restored).toMatchObject({ code: 0, out: expect.stringContaining("is restored, as it was at") });
  copyFileSync(sealed, `${data}.keys.json`);
  const copy = await start({ data, config: CONFIG });
  expect(await exec(copy, "alice", tree)).toBe(alice);
  expect(await exec(copy, "bob", "cat workspace/bob")).toBe("bob\n");
  expect(await (await copy.call("/v1/snapshots", { namespace: "alice" })).json()).toEqual(snapshots);
  expect(await webhooksOf(copy)).toEqual(hooks);
  const verified = (await copy.cofferdam(["event", "verify"])).stdout;
  expect(verified).toContain("No event was changed, lost or added.");
  expect(verified.split("\n").length).toBe(events.split("\n").length);
  const told = await copy.cofferdam(["event", "list", "--appliance", "--json"]);
  expect(told.stdout).toContain("backup.restored");
  // Into a bucket as well, with what it takes for that.
  await using server = await startS3Server();
  const bucket = [
    `s3://${server.bucket}/own`,
    "--endpoint",
    server.endpoint,
    "--credentials-file",
    server.credentialsFile,
  ];
  await copy.cofferdam(["backup", "create", "--to", ...bucket]);
  expect(await json(copy, "backup", "verify", "--from", ...bucket)).toMatchObject({ ok: true });
  // It goes on as the original would have: a backup into the same target is incremental.
  const next = await json(copy, "backup", "create", "--to", target);
  expect(next["bytes_added"]).toBeLessThan(MIB);
  expect(await json(copy, "backup", "verify", "--from", target)).toMatchObject({ ok: true });
}, 60_000);

test("in S3 mode it leaves contents where they are, and the restored appliance has even what came later", async () => {
  await using server = await startS3Server();
  const config = `${CONFIG}${server.config()}[backup]\nto = "/not-mounted/backups"\n`;
  const before = await start({ config });
  await exec(before, "alice", "cd workspace; echo one >one; head -c 5000000 /dev/urandom >big");
  const to = `${before.data}.backups`;
  const made = await json(before, "backup", "create", "--to", to, "--recipient", recipient);
  expect(made).toMatchObject({ namespaces: 1, blobs: null });
  expect(readdirSync(to).filter((name) => name.startsWith("ns-"))).toEqual([]);
  // Where it keeps its own files no backup goes, nor to a disk that is not there while nobody looks.
  const own = ["--endpoint", server.endpoint, "--credentials-file", server.credentialsFile];
  const refuse = async (...args: string[]) =>
    (await before.cofferdam(["backup", "create", ...args], { expect: 1 })).stderr;
  expect(await refuse("--to", `s3://${server.bucket}`, ...own)).toContain("a place of their own");
  expect(await refuse("--to", join(before.data, "api/blobs"))).toContain("a place of their own");
  expect(await refuse("--due")).toContain("is its disk mounted?");
  expect(await json(before, "backup", "verify", "--from", to)).toMatchObject({ ok: true });
  await exec(before, "alice", "echo later >workspace/later");
  const sums = await exec(before, "alice", "md5sum workspace/*");
  await stop(before);
  const data = `${before.data}-new`;
  await cofferdam("prepare", "--data", data);
  expect(await cofferdam("restore", to, "--data", data, "--identity-file", identityFile)).toMatchObject({
    code: 0,
  });
  copyFileSync(before.keysFile, `${data}.keys.json`);
  expect(await exec(await start({ data, config }), "alice", "md5sum workspace/*")).toBe(sums);
}, 60_000);

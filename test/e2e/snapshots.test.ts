import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { until } from "../fixtures/until.ts";

// The calls as such are driven by the published SDK, in test/e2e/sdk.
let appliance: Appliance;
beforeAll(async () => {
  appliance = await startAppliance({ config: "[exec]\npool = 1\n" });
}, 120_000);
afterAll(async () => void (await appliance.stop()));

async function exec(namespace: string, command: string) {
  const answer = await appliance.call("/v1/exec", { namespace, json: { command } });
  return { status: answer.status, body: (await answer.json()) as { stdout?: string; detail?: string } };
}
const out = async (namespace: string, command: string) => (await exec(namespace, command)).body.stdout;

async function snapshot(namespace: string, label: string | null = null): Promise<string> {
  const answer = await appliance.call("/v1/snapshots", { namespace, json: { label } });
  const body = (await answer.json()) as { snapshot_id: string };
  expect(answer.status, JSON.stringify(body)).toBe(200);
  return body.snapshot_id;
}
const restore = async (namespace: string, id: string) =>
  appliance.call(`/v1/snapshots/${id}/restore`, { namespace, method: "POST" });

const blobsDirectory = () => join(appliance.data, "api/blobs");
const storedFiles = () =>
  existsSync(blobsDirectory())
    ? readdirSync(blobsDirectory(), { recursive: true, withFileTypes: true })
        .filter((one) => one.isFile())
        .map((one) => join(one.parentPath, one.name))
    : [];

test("a restore ends what runs, says so to its caller, and the next command finds the files", async () => {
  await exec("running", "echo then > workspace/f");
  const id = await snapshot("running");
  await exec("running", "echo now > workspace/f");
  const running = exec("running", "echo began > workspace/began; cd workspace; sleep 25; echo late > late");
  await until(async () => (await out("running", "cat workspace/began 2>/dev/null"))?.startsWith("began"));
  expect(await (await restore("running", id)).json()).toEqual({ files_restored: 1 });
  expect(await running).toMatchObject({
    status: 502,
    body: { detail: "The command may have run, but its namespace was stopped." },
  });
  expect(await out("running", "cd workspace; ls -A; cat f; pgrep -c sleep")).toBe("f\nthen\n0\n");
}, 60_000);

test("nothing of a tenant's is readable in the store", async () => {
  const secret = "the quick brown secret 4711 ";
  await exec("secret", `for n in 1 2 3; do echo '${secret}' > workspace/plainname$n; done`);
  await snapshot("secret", "labelled");
  const all = storedFiles();
  expect(all.length).toBeGreaterThan(1);
  for (const file of all) {
    const bytes = readFileSync(file);
    expect(bytes.includes(secret.trim()) || bytes.includes("plainname") || bytes.includes("labelled")).toBe(
      false,
    );
    expect(statSync(file).mode & 0o077).toBe(0);
  }
});

test("a bit that flips on the disk is found, and the snapshots and paths that it hurts are named", async () => {
  await exec("flip", "head -c 3000000 /dev/urandom > workspace/precious; echo well > workspace/well");
  const before = new Set(storedFiles());
  const id = await snapshot("flip", "hurt");
  const fresh = storedFiles().filter((file) => !before.has(file));
  const large = fresh.toSorted((a, b) => statSync(b).size - statSync(a).size)[0] ?? "";
  expect((await appliance.cofferdam(["snapshot", "verify"])).stdout).toContain("Damaged: 0.");
  const bytes = readFileSync(large);
  bytes[1_234_567]! ^= 0x10;
  writeFileSync(large, bytes);

  const { stdout } = await appliance.cofferdam(["snapshot", "verify"], { expect: 1 });
  expect(stdout).toContain(
    `${id} of flip (hurt) is damaged:\n  blob ${large.split("/").at(-1)}: it is not what was stored\n    "workspace/precious"\n`,
  );
  expect(stdout).toContain("Damaged: 1.");
  const one = await appliance.cofferdam(["snapshot", "verify", "flip", id, "--json"], { expect: 1 });
  expect(JSON.parse(one.stdout)).toMatchObject({
    snapshot_id: id,
    damage: [{ paths: ["workspace/precious"] }],
  });

  await exec("flip", "echo changed > workspace/well");
  const refused = await restore("flip", id);
  expect(refused.status).toBe(500);
  expect(await refused.json()).toEqual({
    detail: expect.stringContaining(
      "Nothing was changed: the snapshot is damaged at workspace/precious (blob ",
    ),
  });
  expect(await out("flip", "cat workspace/well; stat -c %s workspace/precious")).toBe("changed\n3000000\n");
  // It breaks off: no part is taken for the whole.
  const downloading = appliance.call(`/v1/snapshots/${id}/download`, { namespace: "flip" });
  const ended = await downloading
    .then(async (answer) => answer.bytes())
    .then(
      () => "whole",
      () => "broken off",
    );
  expect(ended).toBe("broken off");
});

test("api, killed in a restore, comes back with the old files or the new ones", async () => {
  const make = (state: string) =>
    `cd workspace; rm -rf d; mkdir d; for n in $(seq 300); do echo ${state} $n > d/$n; done`;
  const look = "cd workspace/d && cat * | cut -d' ' -f1 | sort | uniq -c | tr -s ' '";
  await exec("killed", make("one"));
  const one = await snapshot("killed");
  await exec("killed", make("two"));
  const two = await snapshot("killed");
  let now = "two";
  for (let round = 0; round < 3; round++) {
    const other = now === "one" ? "two" : "one";
    const restoring = restore("killed", other === "one" ? one : two).then(
      async (answer) => answer.status === 200 && (await answer.text()).includes("300"),
      () => false,
    );
    await Bun.sleep(Math.random() * 250);
    process.kill(appliance.pid("api"), "SIGKILL");
    const answered = await restoring;
    const found = await until(async () => {
      const text = await out("killed", look).catch(() => undefined);
      return text === undefined || text === "" ? null : text.trim();
    }, 60_000);
    expect([`300 one`, `300 two`]).toContain(found);
    if (answered) expect(found).toBe(`300 ${other}`);
    now = found.slice(4);
  }
}, 180_000);

test("the operator's commands: create, list, restore, download, delete, gc", async () => {
  await exec("cli", "echo then > workspace/f");
  const { stdout: made } = await appliance.cofferdam([
    "snapshot",
    "create",
    "cli",
    "--label",
    "by the operator",
  ]);
  const id = /^snap-[a-z2-7]{16}/.exec(made)?.[0] ?? "";
  expect(made).toMatch(/^snap-[a-z2-7]{16}: 1 file, 5 B; [\d.]+ [KM]?i?B new in the store\n$/);
  expect((await appliance.cofferdam(["snapshot", "list", "cli"])).stdout).toMatch(
    new RegExp(`^SNAPSHOT .*LABEL\\n${id} .* by the operator\\n$`),
  );
  await exec("cli", "echo now > workspace/f");
  const unsure = await appliance.cofferdam(["snapshot", "restore", "cli", id], { expect: 2 });
  expect(unsure.stderr).toContain("--yes");
  expect((await appliance.cofferdam(["snapshot", "restore", "cli", id, "--yes"])).stdout).toBe(
    "1 file is restored.\n",
  );
  expect(await out("cli", "cat workspace/f")).toBe("then\n");
  const to = "/scratch/cli.tar.gz";
  await appliance.cofferdam(["snapshot", "download", "cli", id, to]);
  const unpacked = Bun.spawnSync(["tar", "-xOf", to, "workspace/f"]);
  expect(unpacked.stdout.toString()).toBe("then\n");
  await appliance.cofferdam(["snapshot", "delete", "cli", id]);
  expect((await appliance.cofferdam(["snapshot", "list", "cli", "--json"])).stdout).toBe(
    '{"snapshots":[]}\n',
  );
  expect((await appliance.cofferdam(["gc", "--json"])).stdout).toContain('"failed":0');
  expect((await appliance.cofferdam(["snapshot", "delete", "cli", id], { expect: 1 })).stderr).toContain(
    "has no snapshot",
  );
});

test("with its namespace a snapshot goes, and all that the store has of it", async () => {
  await exec("going", "echo x > workspace/f");
  const before = storedFiles();
  await snapshot("going");
  expect(storedFiles().length).toBeGreaterThan(before.length);
  await appliance.cofferdam(["namespace", "delete", "going", "--yes"]);
  expect(storedFiles().toSorted()).toEqual(before.toSorted());
  const list = await appliance.call("/v1/snapshots", { namespace: "going" });
  expect(await list.json()).toEqual({ snapshots: [] });
});

import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { makeDisk } from "../fixtures/encrypted-disk.ts";
import { until } from "../fixtures/until.ts";

/* The whole appliance on a disk that can encrypt, and what is on that disk afterwards. */
const disk = makeDisk({ size: "128M" });
const CONFIG = "[exec]\nidle_s = 1\npool = 0\n[quota]\ndisk_floor_mb = 8\n";
const start = () => startAppliance({ data: disk.path, config: CONFIG });
let it: Appliance;
beforeAll(async () => {
  it = await start();
}, 60_000);
afterAll(async () => {
  await it.stop();
  disk.remove();
});

const FILE = "/files/workspace/planted-dir/planted-name.txt";
const put = (namespace: string, content: string) =>
  it.call(FILE, { method: "PUT", body: content, namespace });
const get = async (namespace: string) => (await it.call(FILE, { namespace })).text();
const exec = async (namespace: string, command: string) =>
  (await (await it.call("/v1/exec", { namespace, json: { command } })).json()) as Record<string, unknown>;
const volumes = () => readdirSync(join(disk.path, "api/volumes")).filter((name) => name.startsWith("ns-"));
/** What root finds below every namespace's directory: names, and contents as far as it can read them. */
const shownToRoot = () => {
  const dir = join(disk.path, "api/volumes");
  const names = Bun.spawnSync(["find", dir]).stdout.toString();
  return names + Bun.spawnSync(["grep", "-ra", "planted", dir]).stdout.toString();
};
/** Looks at no file meanwhile: one that is open when its volume is locked stays readable until the next try. */
const dormant = async () => {
  await until(() => readdirSync(`/run/cofferdam/${it.inst}/host/unlocked`).length === 0, 150_000);
  expect(shownToRoot()).not.toContain("planted");
};
const PLANTED = [
  "planted-dir",
  "planted-name",
  "planted-content",
  "planted-command",
  "planted-output",
  "planted-key",
  "planted-namespace",
];

test("nothing that was planted is on the disk, nor shown to root through a dormant directory", async () => {
  expect((await put("planted-namespace", "planted-content ".repeat(1000))).status).toBe(200);
  const command =
    "echo planted-command >&2; cd workspace; echo planted-output > planted-dir/by-exec; cat planted-dir/*.txt | wc -c";
  expect(await exec("planted-namespace", command)).toMatchObject({ exit_code: 0, stdout: "16000\n" });
  await it.cofferdam(["key", "create", "planted-key", "--workspace", it.keys.workspace_id]);
  expect((await it.cofferdam(["event", "list"])).stdout).toContain("planted-key");
  // The controls: root can read what is in use, and what nobody encrypts is found.
  await get("planted-namespace");
  expect(shownToRoot()).toContain("planted-content");
  writeFileSync(join(disk.path, "config.toml"), "# planted-in-the-clear\n");
  const own = "encrypted by the file system: the appliance's own files, and those of 1 of 1 namespaces";
  expect((await it.cofferdam(["doctor"])).stdout).toContain(own);
  expect((await it.cofferdam(["status"])).stdout).not.toContain("notice");
  await dormant();
  expect(disk.found(PLANTED)).toEqual([]);
  expect(disk.found(["planted-in-the-clear"])).toEqual(["planted-in-the-clear"]);
  expect(await get("planted-namespace")).toStartWith("planted-content");
}, 200_000);

test("a dormant namespace is restored from its snapshot, and is as closed as before", async () => {
  await put("restored", "planted-content then");
  await exec("restored", "cd workspace/planted-dir; ln -s planted-name.txt planted-link; chmod 711 .");
  const made = await it.call("/v1/snapshots", { namespace: "restored", json: { label: "planted-label" } });
  const { snapshot_id: id } = (await made.json()) as { snapshot_id: string };
  await put("restored", "planted-content now");
  await dormant();
  const restored = await it.call(`/v1/snapshots/${id}/restore`, { namespace: "restored", method: "POST" });
  expect(await restored.json()).toEqual({ files_restored: 1 });
  expect(await get("restored")).toBe("planted-content then");
  const look = "cd workspace; stat -c '%a %u' planted-dir; cat planted-dir/planted-link";
  expect(await exec("restored", look)).toMatchObject({ stdout: "711 10000\nplanted-content then" });
  await dormant();
  expect(disk.found([...PLANTED, "planted-link", "planted-label"])).toEqual([]);
}, 200_000);

test("kills of api and of sandboxd lose nothing, and leave nothing unlocked for good", async () => {
  await put("killed", "planted-content");
  for (const role of ["api", "serve"] as const) {
    process.kill(it.pid(role), "SIGKILL");
    if (role === "serve") {
      await it.stop("SIGKILL");
      it = await start();
    }
    await until(() =>
      it.call("/v1/me").then(
        ({ ok }) => ok,
        () => false,
      ),
    );
    expect(await get("killed")).toBe("planted-content");
    expect(await exec("killed", "cat workspace/planted-dir/planted-name.txt")).toMatchObject({
      stdout: "planted-content",
    });
  }
  expect(shownToRoot()).toContain("planted-content");
  await dormant();
}, 200_000);

test("a stopped appliance is closed, database and all, and opens again after a reboot", async () => {
  await put("rebooted", "planted-content");
  const state = join(disk.path, "api/state");
  const held = () => Bun.spawnSync(["grep", "-raqF", "rebooted", state]).exitCode === 0;
  expect(held()).toBe(true);
  await it.stop();
  expect(held()).toBe(false);
  expect(shownToRoot()).not.toContain("planted");
  expect(disk.found(["rebooted"])).toEqual([]);
  disk.remount();
  it = await start();
  expect(await get("rebooted")).toBe("planted-content");
}, 200_000);

test("a deleted namespace is gone at once, its key with it", async () => {
  await put("deleted", "planted-content");
  await exec("deleted", "cd workspace && mkdir -p a/b/c && echo planted-content > a/b/c/d");
  const before = volumes();
  expect(
    (
      await it.call(`/v1/workspaces/${it.keys.workspace_id}/namespaces/deleted`, {
        method: "DELETE",
        key: it.keys.admin_key,
      })
    ).status,
  ).toBe(200);
  expect(volumes()).toHaveLength(before.length - 1);
  expect(readdirSync(join(disk.path, "api/volumes/.trash"))).toEqual([]);
  await dormant();
  expect(disk.found(PLANTED)).toEqual([]);
}, 200_000);

import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { namespaceId, type NamespaceId } from "../../../src/ids.ts";
import { KEY_BYTES } from "../../../src/kernel/fscrypt.ts";
import { roleUser, TENANT } from "../../../src/kernel/users.ts";
import { showPresence } from "../../../src/instance/presence.ts";
import { createSandboxdClient } from "../../../src/sandbox/sandboxd-client.ts";
import { makeDisk } from "../../fixtures/encrypted-disk.ts";
import { prepareLibrary, refusal, stage } from "./stage.ts";

let lib = "";
beforeAll(() => {
  lib = prepareLibrary();
}, 300_000);
const disk = makeDisk({ size: "256M" });
afterAll(() => disk.remove());

const freshKey = () => Buffer.from(crypto.getRandomValues(new Uint8Array(KEY_BYTES))).toString("hex");
type Stage = Awaited<ReturnType<typeof stage>>;

/** The empty directory that api makes of a new namespace. */
function newVolume({ instance }: Stage): NamespaceId {
  const id = namespaceId.make();
  const { uid, gid } = roleUser("cofferdam");
  const dir = join(instance.api.volumes, id);
  mkdirSync(dir, { mode: 0o700 });
  chownSync(dir, uid, gid);
  return id;
}

function fill(at: Stage, id: NamespaceId, text: string): string {
  const live = at.live(id);
  mkdirSync(live);
  chownSync(live, TENANT.uid, TENANT.gid);
  writeFileSync(join(live, "note"), text);
  return join(live, "note");
}

test("a new volume is encrypted, readable while it is unlocked, and not by root once it is locked", async () => {
  const at = await stage(lib, { on: disk.path });
  const namespace = newVolume(at);
  const key = freshKey();
  expect(await at.client.call("unlockVolume", { namespace, key })).toEqual({ state: "encrypted" });
  const note = fill(at, namespace, "a note");
  expect(await at.client.call("unlockVolume", { namespace, key })).toEqual({ state: "encrypted" });
  expect(readFileSync(note, "utf8")).toBe("a note");
  expect(await at.client.call("unlockedVolumes", {})).toEqual({ namespaces: [namespace] });
  expect(await at.client.call("lockVolume", { namespace })).toEqual({ state: "locked" });
  expect(() => readFileSync(note)).toThrow("ENOENT");
  expect(await at.client.call("unlockedVolumes", {})).toEqual({ namespaces: [] });
  expect(await at.client.call("lockVolume", { namespace })).toEqual({ state: "locked" });
  // Another's key opens nothing, and is not kept.
  expect(await at.client.call("unlockVolume", { namespace, key: freshKey() })).toEqual({ state: "foreign" });
  expect(() => readFileSync(note)).toThrow("ENOENT");
  expect(await at.client.call("unlockedVolumes", {})).toEqual({ namespaces: [] });
  expect(await at.client.call("unlockVolume", { namespace, key })).toEqual({ state: "encrypted" });
  expect(readFileSync(note, "utf8")).toBe("a note");
  // Its directory may be gone by then.
  renameSync(dirname(dirname(note)), join(at.instance.api.volumes, ".trash"));
  expect(await at.client.call("lockVolume", { namespace })).toEqual({ state: "locked" });
  expect(() => readFileSync(join(at.instance.api.volumes, ".trash/live/note"))).toThrow("ENOENT");
  expect(await at.end()).toEqual([]);
}, 60_000);

test("a volume from before, or where the file system can't, goes on in the clear", async () => {
  const at = await stage(lib, { on: disk.path });
  const namespace = at.namespace();
  writeFileSync(join(at.live(namespace), "note"), "old");
  expect(await at.client.call("unlockVolume", { namespace, key: freshKey() })).toEqual({ state: "plain" });
  expect(await at.client.call("lockVolume", { namespace })).toEqual({ state: "locked" });
  expect(readFileSync(join(at.live(namespace), "note"), "utf8")).toBe("old");
  expect(await at.end()).toEqual([]);
  const elsewhere = await stage(lib);
  const args = { namespace: newVolume(elsewhere), key: freshKey() };
  expect(await elsewhere.client.call("unlockVolume", args)).toEqual({ state: "plain" });
  expect(await elsewhere.client.call("unlockedVolumes", {})).toEqual({ namespaces: [] });
  expect(await elsewhere.end()).toEqual([]);
}, 60_000);

test("a sandbox works in an encrypted volume, and keeps it from being locked", async () => {
  const at = await stage(lib, { on: disk.path });
  const namespace = newVolume(at);
  const key = freshKey();
  await at.client.call("unlockVolume", { namespace, key });
  const note = fill(at, namespace, "from the host");
  // The stand-in for the init is no user that the tenant's directory is open to.
  chmodSync(at.live(namespace), 0o777);
  const { sandbox } = await at.client.call("ensureSandbox", { namespace });
  const script = "cd /home/agent/workspace; cat note; echo; mkdir -p a/b; echo inside > a/b/c; mv a d; ls -R";
  expect(await at.api.shell(sandbox, script)).toBe("from the host\n.:\nd\nnote\n\n./d:\nb\n\n./d/b:\nc\n");
  expect(await at.client.call("lockVolume", { namespace })).toEqual({ state: "attached" });
  expect(readFileSync(note, "utf8")).toBe("from the host");
  await at.client.call("stopSandbox", { sandbox });
  const open = openSync(note, "r");
  expect(await at.client.call("lockVolume", { namespace })).toEqual({ state: "busy" });
  expect(await at.client.call("unlockedVolumes", {})).toEqual({ namespaces: [namespace] });
  closeSync(open);
  expect(await at.client.call("lockVolume", { namespace })).toEqual({ state: "locked" });
  expect(disk.found(["from the host"])).toEqual([]);
  // It is not attached while it is locked: that would show names that are none.
  expect(await refusal(at.client.call("ensureSandbox", { namespace }))).toContain("could not be prepared");
  expect(await at.end()).toEqual([]);
}, 60_000);

test("a restarted sandboxd knows what is unlocked; all is locked at the end, but not under a living api", async () => {
  const at = await stage(lib, { on: disk.path });
  const ids = [newVolume(at), newVolume(at)];
  for (const namespace of ids) await at.client.call("unlockVolume", { namespace, key: freshKey() });
  const notes = ids.map((id) => fill(at, id, "text"));
  const api = await showPresence(at.instance);
  await at.sandboxd.stop("keep");
  expect(notes.map((note) => readFileSync(note, "utf8"))).toEqual(["text", "text"]);
  const next = await at.start();
  const client = createSandboxdClient({ path: at.instance.sockets.sandboxd, log: at.log });
  expect((await client.call("unlockedVolumes", {})).namespaces.toSorted()).toEqual(ids.toSorted());
  client.close();
  api[Symbol.dispose]();
  await next.stop("keep");
  for (const note of notes) expect(() => readFileSync(note)).toThrow("ENOENT");
  at.client.close();
  at.api.close();
  expect(at.left()).toEqual([]);
}, 60_000);

test("a directory that api should not have made so is not opened, and gets no policy", async () => {
  const at = await stage(lib, { on: disk.path });
  const { volumes } = at.instance.api;
  const target = join(at.instance.data, "target");
  mkdirSync(target);
  const { uid, gid } = roleUser("cofferdam");
  const cases: Record<string, (dir: string) => void> = {
    "a link to a directory of root's": (dir) => symlinkSync(target, dir),
    "a link within": (dir) => symlinkSync(newVolume(at), dir),
    "root's own": (dir) => mkdirSync(dir),
    "a tenant's": (dir) => {
      mkdirSync(dir);
      chownSync(dir, TENANT.uid, TENANT.gid);
    },
    "a file": (dir) => {
      writeFileSync(dir, "");
      chownSync(dir, uid, gid);
      chmodSync(dir, 0o700);
    },
    nothing: () => {},
    "another file system": (dir) => {
      mkdirSync(dir);
      Bun.spawnSync(["mount", "-t", "tmpfs", "-o", `uid=${uid},gid=${gid}`, "tmpfs", dir]);
    },
  };
  for (const [name, make] of Object.entries(cases)) {
    const namespace = namespaceId.make();
    const dir = join(volumes, namespace);
    make(dir);
    const key = freshKey();
    const refused = await refusal(at.client.call("unlockVolume", { namespace, key }));
    expect([name, refused]).toEqual([name, expect.stringContaining("could not be prepared")]);
    if (name === "another file system") Bun.spawnSync(["umount", dir]);
  }
  expect(await at.client.call("unlockedVolumes", {})).toEqual({ namespaces: [] });
  expect(readdirSync(at.instance.sandboxd.unlocked)).toEqual([]);
  const namespace = newVolume(at);
  expect(await at.client.call("unlockVolume", { namespace, key: freshKey() })).toEqual({
    state: "encrypted",
  });
  expect(await at.end()).toEqual([]);
}, 60_000);

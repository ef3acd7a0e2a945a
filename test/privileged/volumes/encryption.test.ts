import { afterAll, expect, test } from "bun:test";
import {
  chownSync,
  closeSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { configSchema } from "../../../src/config/schema.ts";
import { AppError } from "../../../src/errors.ts";
import { namespaceId, type NamespaceId } from "../../../src/ids.ts";
import { KEY_BYTES } from "../../../src/kernel/fscrypt.ts";
import { constants, mkdirAt, openBeneath } from "../../../src/kernel/openat2.ts";
import { roleUser } from "../../../src/kernel/users.ts";
import { createVolumeKeys } from "../../../src/sandboxd/volume-keys.ts";
import { createInstance, ensureRunDirectories } from "../../../src/instance/setup.ts";
import { createEncryption } from "../../../src/volumes/encryption.ts";
import { parsePath } from "../../../src/volumes/path.ts";
import { createVolumes } from "../../../src/volumes/volumes.ts";
import { makeDisk } from "../../fixtures/encrypted-disk.ts";
import { openDescriptors } from "../../fixtures/scratch.ts";
import { ensureUsers } from "../../fixtures/users.ts";
import { alone, quietly } from "../../fixtures/volumes.ts";

ensureUsers();
const disk = makeDisk({ size: "256M" });
afterAll(() => disk.remove());
const text = (content: string) => ({ chunks: [Buffer.from(content)] });
const note = parsePath("workspace/docs/note.txt");

/** Volumes of an instance on the disk, by sandboxd's own handlers; `away`: as if it were not there. */
function start(at = { on: disk.path, keys: new Map<NamespaceId, Uint8Array>() }) {
  const data = join(at.on, "data");
  const instance = createInstance(data);
  ensureRunDirectories(instance);
  const { uid, gid } = roleUser("cofferdam");
  const state = { away: false, asked: 0, attached: false, busy: 0 };
  const kernel = createVolumeKeys({ instance, isAttached: () => state.attached });
  const call = async (op: string, args: { namespace: NamespaceId; key: string }) => {
    state.asked++;
    if (state.away) throw new AppError("unavailable", "sandboxd is away");
    // This process is root, where api is not.
    const dir = join(instance.api.volumes, args.namespace);
    if (existsSync(dir)) chownSync(dir, uid, gid);
    if (op === "unlockVolume") return kernel.unlock(args.namespace, Buffer.from(args.key, "hex"));
    const locked = await kernel.lock(args.namespace);
    if (locked.state === "busy") state.busy++;
    return locked;
  };
  const keyOf = async (id: NamespaceId) => {
    const key = at.keys.get(id);
    if (key === undefined) throw new AppError("not_found", "its key is destroyed");
    return { derive: () => key };
  };
  const config = configSchema.parse({ quota: { disk_floor_mb: 0 }, exec: { idle_s: 1 } });
  const warnings: unknown[] = [];
  const volumes = createVolumes({
    ...alone,
    dir: instance.api.volumes,
    config: () => config,
    encryption: createEncryption({ sandboxd: { call } as never, keyOf }),
    log: { warn: (...all) => void warnings.push(all) },
  });
  return {
    ...at,
    volumes,
    kernel,
    state,
    warnings,
    dir: instance.api.volumes,
    live: (id: NamespaceId) => join(instance.api.volumes, id, "live"),
    namespace() {
      const id = namespaceId.make();
      at.keys.set(id, crypto.getRandomValues(new Uint8Array(KEY_BYTES)));
      return id;
    },
    files: (id: NamespaceId) => quietly(volumes.open(id)),
    read: async (id: NamespaceId) => (await volumes.open(id).content(note)) as { content?: string },
  };
}

async function idle(at: ReturnType<typeof start>, id: NamespaceId): Promise<void> {
  while ((await at.kernel.list()).includes(id)) await Bun.sleep(20);
}

test("a namespace's content and names are on the disk only under its key, which goes when it is idle", async () => {
  const at = start();
  const id = at.namespace();
  await at.files(id).write(parsePath("workspace/secret-dir/secret-name"), text("secret-content ".repeat(99)));
  writeFileSync(join(disk.path, "plain-name"), "plain-content ".repeat(99));
  expect(at.state.asked).toBe(1);
  expect(readdirSync(at.live(id))).toEqual(["secret-dir"]);
  await idle(at, id);
  // Root, through a dormant directory.
  expect(() => readdirSync(at.live(id))).toThrow("ENOENT");
  const shown = Bun.spawnSync(["find", join(at.dir, id)]).stdout.toString();
  expect(shown.split("\n").length).toBeGreaterThan(4);
  expect(shown).not.toContain("secret");
  expect(Bun.spawnSync(["grep", "-raqF", "secret-content", join(at.dir, id)]).exitCode).not.toBe(0);
  const planted = ["secret-dir", "secret-name", "secret-content", "plain-name", "plain-content"];
  expect(disk.found(planted)).toEqual(["plain-name", "plain-content"]);
  // And comes back with the next call.
  const again = await at.volumes.open(id).list(parsePath("workspace"), true);
  expect(again.entries.map(({ path }) => path)).toEqual([
    "workspace/secret-dir",
    "workspace/secret-dir/secret-name",
  ]);
  at.volumes.close();
});

test("calls of an unlocked namespace ask nobody, and go on while sandboxd is away; others get 503", async () => {
  const at = start();
  const [open, shut] = [at.namespace(), at.namespace()];
  for (const id of [open, shut]) await at.files(id).write(note, text("text"));
  await at.kernel.lock(shut);
  at.volumes.close();
  // Another api, which finds one of them unlocked.
  const next = start(at);
  next.state.away = true;
  for (let turn = 0; turn < 50; turn++) await next.files(open).write(note, text(`text ${turn}`));
  expect(await next.read(open)).toMatchObject({ content: "text 49" });
  expect(next.state.asked).toBe(0);
  const refused = await next
    .files(shut)
    .write(note, text("x"))
    .catch((error: unknown) => error);
  expect(refused).toMatchObject({ code: "unavailable" });
  next.state.away = false;
  expect(await next.read(shut)).toMatchObject({ content: "text" });
  next.volumes.close();
});

test("what an earlier api left unlocked is locked, and whoever comes meanwhile waits and finds it all", async () => {
  const at = start();
  const ids = [at.namespace(), at.namespace()] as const;
  for (const id of ids) await at.files(id).write(note, text("text"));
  at.volumes.close();
  const next = start(at);
  for (const id of await next.kernel.list()) next.volumes.leases.closeUnheld(id);
  expect(await next.read(ids[0])).toMatchObject({ content: "text" });
  await idle(next, ids[1]);
  expect(() => readFileSync(join(next.live(ids[1]), "docs/note.txt"))).toThrow("ENOENT");
  expect(await next.read(ids[1])).toMatchObject({ content: "text" });
  next.volumes.close();
});

test("after a reboot all is locked, and a write that a crash cut short is found and removed", async () => {
  const at = start();
  const [whole, cut] = [at.namespace(), at.namespace()];
  for (const id of [whole, cut]) await at.files(id).write(note, text("text"));
  writeFileSync(join(at.dir, cut, "tmp", "unfinished"), "half");
  at.volumes.close();
  disk.remount();
  const next = start(at);
  expect(() => readdirSync(next.live(whole))).toThrow("ENOENT");
  // It has to see what is unfinished without the keys, and asks for that one only.
  expect(await next.volumes.sweep()).toBe(1);
  expect(next.state.asked).toBe(1);
  expect(readdirSync(join(next.dir, cut, "tmp"))).toEqual([]);
  expect(await next.read(whole)).toMatchObject({ content: "text" });
  next.volumes.close();
});

test("files under a key that is not ours are refused with a sentence, and left alone", async () => {
  const at = start();
  const id = at.namespace();
  await at.files(id).write(note, text("text"));
  await at.kernel.lock(id);
  at.volumes.close();
  const key = at.keys.get(id) ?? new Uint8Array();
  at.keys.set(id, crypto.getRandomValues(new Uint8Array(KEY_BYTES)));
  const next = start(at);
  const refused = await next.read(id).catch((error: unknown) => String(error));
  expect(refused).toContain("a key that this server does not have");
  next.volumes.close();
  at.keys.set(id, key);
  const again = start(at);
  expect(await again.read(id)).toMatchObject({ content: "text" });
  again.volumes.close();
});

/** Deeper than any path, with all kinds of entries on the way. */
function plant(live: string): void {
  let dir = openSync(live, constants.O_RDONLY | constants.O_DIRECTORY);
  for (let level = 0; level < 3_000; level++) {
    mkdirAt(dir, "deeper", 0o755);
    const next = openBeneath(dir, "deeper", constants.O_RDONLY | constants.O_DIRECTORY);
    closeSync(dir);
    dir = next;
  }
  closeSync(dir);
  for (let wide = 0; wide < 300; wide++) {
    mkdirSync(join(live, `wide-${wide}`));
    writeFileSync(join(live, `wide-${wide}`, "file"), "text");
  }
  symlinkSync("/etc", join(live, "out"));
  symlinkSync("wide-1", join(live, "in"));
  linkSync(join(live, "wide-1/file"), join(live, "x".repeat(255)));
  Bun.spawnSync(["mkfifo", join(live, "pipe")]);
  // Of a tenant that means to keep it.
  Bun.spawnSync(["chmod", "000", join(live, "wide-2")]);
}

for (const lost of [false, true]) {
  test(`a deleted namespace's files go, ${lost ? "also when its key is gone for good" : "by its key"}`, async () => {
    const at = start();
    const [id, other] = [at.namespace(), at.namespace()];
    await at.files(id).write(note, text("text"));
    await at.files(other).write(note, text("stays"));
    plant(at.live(id));
    const before = openDescriptors(disk.path);
    if (lost) {
      at.volumes.close();
      disk.remount();
    } else at.state.away = true;
    const next = lost ? start(at) : at;
    at.keys.delete(id);
    const most = { descriptors: 0 };
    const looking = setInterval(
      () => (most.descriptors = Math.max(most.descriptors, openDescriptors(disk.path))),
      1,
    );
    await next.volumes.remove(id);
    clearInterval(looking);
    expect(most.descriptors).toBeLessThan(before + 30);
    expect(existsSync(join(next.dir, id))).toBe(false);
    expect(readdirSync(join(next.dir, ".trash"))).toEqual([]);
    expect(existsSync("/etc/passwd")).toBe(true);
    expect(await next.read(other)).toMatchObject({ content: "stays" });
    // Without sandboxd, the kernel's key goes later.
    next.state.away = false;
    for (const left of await next.kernel.list()) if (left === id) next.volumes.leases.closeUnheld(left);
    await idle(next, id);
    next.volumes.close();
  }, 60_000);
}

test("a deletion takes the key out of the kernel before anything else, and a download does not hold it up", async () => {
  const at = start();
  const id = at.namespace();
  await at.files(id).write(note, text("text"));
  const held = openSync(join(at.live(id), "docs/note.txt"), "r");
  const dir = openSync(join(at.live(id), "docs"), "r");
  at.keys.delete(id);
  await at.volumes.remove(id);
  expect(existsSync(join(at.dir, id))).toBe(false);
  expect(readFileSync(held, "utf8")).toBe("text");
  closeSync(held);
  closeSync(dir);
  await idle(at, id);
  expect(at.warnings).toEqual([]);
  at.volumes.close();
});

/** As many as it says with --long; of keys alone, the kernel's own test always has a thousand. */
const TURNS = process.env["COFFERDAM_TEST_LONG"] === undefined ? 100 : 1000;
test(`${TURNS} namespaces in turn leave no key behind`, async () => {
  const at = start();
  const before = await at.kernel.list();
  for (let turn = 0; turn < TURNS; turn++) {
    const id = at.namespace();
    await at.files(id).write(note, text("text"));
    await at.volumes.remove(id);
  }
  expect(await at.kernel.list()).toEqual(before);
  at.volumes.close();
}, 300_000);

test("one that can't be locked now is locked later, and works meanwhile", async () => {
  const at = start();
  const id = at.namespace();
  await at.files(id).write(note, text("text"));
  at.state.attached = true;
  while (at.warnings.length === 0) await Bun.sleep(20);
  expect(await at.read(id)).toMatchObject({ content: "text" });
  at.state.attached = false;
  await idle(at, id);
  expect(await at.read(id)).toMatchObject({ content: "text" });
  at.volumes.close();
});

test("one whose file was open when it was locked is locked soon after, file and all", async () => {
  const at = start();
  const id = at.namespace();
  await at.files(id).write(note, text("text"));
  const path = join(at.live(id), "docs/note.txt");
  const open = openSync(path, "r");
  while (at.state.busy === 0) await Bun.sleep(20);
  closeSync(open);
  // The kernel does not forget it by itself.
  expect(readFileSync(path, "utf8")).toBe("text");
  await idle(at, id);
  expect(() => readFileSync(path)).toThrow("ENOENT");
  expect(await at.read(id)).toMatchObject({ content: "text" });
  at.volumes.close();
});

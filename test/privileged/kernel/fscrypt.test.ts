import { afterAll, expect, test } from "bun:test";
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import {
  addKey,
  identifierOf,
  KEY_BYTES,
  keyState,
  policyOf,
  removeKey,
  setPolicy,
} from "../../../src/kernel/fscrypt.ts";
import { makeDisk } from "../../fixtures/encrypted-disk.ts";

const disk = makeDisk();
afterAll(() => disk.remove());

function on<T>(path: string, work: (fd: number) => T): T {
  const fd = openSync(path, "r");
  try {
    return work(fd);
  } finally {
    closeSync(fd);
  }
}
const freshKey = () => crypto.getRandomValues(new Uint8Array(KEY_BYTES));
const keysOfRoot = () => Number(/^ +0: +(\d+)/m.exec(readFileSync("/proc/key-users", "utf8"))?.[1]);

test("a file system that can't encrypt is told from one that can", () => {
  const plain = makeDisk({ encrypt: false });
  expect(on(disk.path, policyOf)).toEqual({ kind: "none" });
  for (const path of [plain.path, "/run", "/proc"]) expect(on(path, policyOf)).toEqual({ kind: "unable" });
  plain.remove();
});

test("what lies under a key is readable while the kernel has it, and then neither contents nor names are", () => {
  const key = freshKey();
  const dir = join(disk.path, "secret");
  const open = join(disk.path, "open");
  for (const each of [dir, open]) mkdirSync(each);
  const identifier = on(dir, (fd) => addKey(fd, key));
  expect(identifier).toBe(identifierOf(key));
  on(dir, (fd) => setPolicy(fd, identifier));
  expect(on(dir, policyOf)).toEqual({ kind: "key", identifier });
  for (const each of [dir, open]) {
    const text = each === dir ? "under-the-key" : "in-the-clear";
    mkdirSync(join(each, `dir-${text}`));
    writeFileSync(join(each, `dir-${text}`, `name-${text}`), `content-${text}`.repeat(400));
  }
  const file = join(dir, "dir-under-the-key/name-under-the-key");
  expect(readFileSync(file, "utf8")).toStartWith("content-under-the-key");
  expect(on(disk.path, (fd) => removeKey(fd, identifier))).toBe("gone");
  expect(on(disk.path, (fd) => removeKey(fd, identifier))).toBe("gone");
  expect(on(dir, (fd) => keyState(fd, identifier))).toBe("absent");
  // As root, with every capability.
  expect(() => readFileSync(file)).toThrow("ENOENT");
  const [name = ""] = readdirSync(dir);
  const [inner = ""] = readdirSync(join(dir, name));
  expect(name + inner).not.toContain("under-the-key");
  expect(() => readFileSync(join(dir, name, inner))).toThrow("ENOKEY");
  expect(() => writeFileSync(join(dir, "new"), "")).toThrow("ENOKEY");
  expect(() => renameSync(join(dir, name), join(disk.path, "stolen"))).toThrow("ENOKEY");
  expect(disk.found(["dir-under-the-key", "name-under-the-key", "content-under-the-key"])).toEqual([]);
  expect(disk.found(["dir-in-the-clear", "name-in-the-clear", "content-in-the-clear"])).toHaveLength(3);
  on(dir, (fd) => addKey(fd, key));
  expect(readFileSync(file, "utf8")).toStartWith("content-under-the-key");
});

test("a file that is still open keeps its own key, and is told of", () => {
  const key = freshKey();
  const dir = join(disk.path, "busy");
  mkdirSync(dir);
  const identifier = on(dir, (fd) => addKey(fd, key));
  on(dir, (fd) => setPolicy(fd, identifier));
  writeFileSync(join(dir, "file"), "text");
  const open = openSync(join(dir, "file"), "r");
  expect(on(disk.path, (fd) => removeKey(fd, identifier))).toBe("busy");
  expect(on(disk.path, (fd) => keyState(fd, identifier))).toBe("partly removed");
  closeSync(open);
  expect(on(disk.path, (fd) => removeKey(fd, identifier))).toBe("gone");
});

test("a directory with something in it takes no policy, nor one with a key that was not added", () => {
  const dir = join(disk.path, "full");
  mkdirSync(join(dir, "something"), { recursive: true });
  const key = freshKey();
  const identifier = on(dir, (fd) => addKey(fd, key));
  expect(() => on(dir, (fd) => setPolicy(fd, identifier))).toThrow("ENOTEMPTY");
  on(disk.path, (fd) => removeKey(fd, identifier));
  rmSync(join(dir, "something"), { recursive: true });
  expect(on(dir, policyOf)).toEqual({ kind: "none" });
});

test("a thousand keys in turn leave the kernel's quota as it was", () => {
  const before = keysOfRoot();
  for (let turn = 0; turn < 1000; turn++) {
    on(disk.path, (fd) => {
      const identifier = addKey(fd, freshKey());
      expect(removeKey(fd, identifier)).toBe("gone");
    });
  }
  // A key's last remains are freed a moment after it is removed.
  for (let tries = 0; keysOfRoot() > before + 50 && tries < 500; tries++) Bun.sleepSync(20);
  expect(keysOfRoot()).toBeLessThanOrEqual(before + 50);
});

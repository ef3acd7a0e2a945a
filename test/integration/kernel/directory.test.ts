import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readDirectory, readLinkAt, statAt, statFd } from "../../../src/kernel/directory.ts";

let dir = "";
let fd = -1;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "directory-"));
  mkdirSync(join(dir, "sub"));
  writeFileSync(join(dir, "file"), "12345", { mode: 0o640 });
  utimesSync(join(dir, "file"), 1, 1_700_000_000.25);
  symlinkSync("file", join(dir, "link"));
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff, 0x41])]), "");
  fd = openSync(dir, "r");
});

afterAll(() => {
  closeSync(fd);
  rmSync(dir, { recursive: true });
});

test("lists every entry once, with its kind and its raw name", () => {
  const entries = [...readDirectory(fd)]
    .flat()
    .map(({ name, kind }) => `${Buffer.from(name).toString("latin1")} ${kind}`);
  expect(entries.toSorted()).toEqual(["file file", "link link", "sub directory", "ÿA file"]);
});

test("lists a directory of many batches", () => {
  const many = join(dir, "sub");
  const names = Array.from({ length: 5000 }, (_, index) => `${index}`.padStart(200, "n"));
  for (const name of names) writeFileSync(join(many, name), "");
  const inner = openSync(many, "r");
  const batches = [...readDirectory(inner)];
  closeSync(inner);
  expect(batches.length).toBeGreaterThan(10);
  expect(new Set(batches.flat().map(({ name }) => Buffer.from(name).toString()))).toEqual(new Set(names));
});

test("tells what an entry is, without following it", () => {
  expect(statAt(fd, "file")).toMatchObject({
    kind: "file",
    mode: 0o640,
    size: 5,
    links: 1n,
    modifiedNs: 1_700_000_000_250_000_000n,
  });
  expect(statAt(fd, "link")).toMatchObject({ kind: "link", size: 4 });
  expect(statAt(fd, Buffer.from([0xff, 0x41]))).toMatchObject({ kind: "file", size: 0 });
  expect(statFd(fd).kind).toBe("directory");
  expect(Buffer.from(readLinkAt(fd, "link")).toString()).toBe("file");
});

test("fails with the kernel's own error", () => {
  expect(() => statAt(fd, "absent")).toThrow("ENOENT");
  expect(() => readLinkAt(fd, "file")).toThrow("EINVAL");
  expect(() => statAt(fd, "a/b")).toThrow("no slash");
});

test("in a directory that is removed while it is open is nothing", () => {
  const gone = join(dir, "gone");
  mkdirSync(gone);
  const inner = openSync(gone, "r");
  rmdirSync(gone);
  expect([...readDirectory(inner)]).toEqual([]);
  closeSync(inner);
});

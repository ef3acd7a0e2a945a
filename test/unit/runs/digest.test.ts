import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { closeSync, ftruncateSync, mkdtempSync, openSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createDigest } from "../../../src/runs/worktree/digest.ts";

const BLOCK = 16 * 1024;
const dir = mkdtempSync(join(tmpdir(), "digest-"));
const dirFd = openSync(dir, "r");
const sha256 = (...parts: (string | Uint8Array)[]) =>
  parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest("hex");

let looks = 0;
function digestOf(name: string, shared: bigint | null = null) {
  return createDigest(async () => void (looks += 1))({ dirFd, name: Buffer.from(name), shared });
}

function sparse(
  name: string,
  size: number,
  ...data: readonly (readonly [at: number, bytes: Uint8Array])[]
): void {
  const fd = openSync(join(dir, name), "w");
  ftruncateSync(fd, size);
  for (const [at, bytes] of data) writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

test("a file in which no block is zero has its SHA-256, whatever its size", async () => {
  for (const size of [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 64 * BLOCK, 64 * BLOCK + 5]) {
    const bytes = Buffer.alloc(size, "x");
    writeFileSync(join(dir, "file"), bytes);
    expect(await digestOf("file")).toEqual({ size, sha256: sha256(bytes), zeros: null });
  }
  // Less than a block of zeros is data.
  const zeros = Buffer.alloc(BLOCK - 1);
  sparse("short", BLOCK - 1);
  expect(await digestOf("short")).toEqual({ size: zeros.length, sha256: sha256(zeros), zeros: null });
});

test("zeros say the same whether they are on the disk or not, and where they are", async () => {
  const [a, b] = [Buffer.alloc(BLOCK, "a"), Buffer.alloc(100, "b")];
  const size = 201 * BLOCK + 100;
  sparse("holes", size, [3 * BLOCK, a], [201 * BLOCK, b]);
  const written = Buffer.alloc(size);
  written.set(a, 3 * BLOCK);
  written.set(b, 201 * BLOCK);
  writeFileSync(join(dir, "written"), written);
  const wanted = { size, sha256: sha256(a, b), zeros: sha256("0-2\n4-200\n") };
  expect(await digestOf("holes")).toEqual(wanted);
  expect(await digestOf("written")).toEqual(wanted);
  sparse("moved", size, [4 * BLOCK, a], [201 * BLOCK, b]);
  expect((await digestOf("moved"))?.zeros).not.toBe(wanted.zeros);
  // A block that is not all hole is data as a whole.
  sparse("within", 3 * BLOCK, [BLOCK + 5000, b]);
  const whole = Buffer.alloc(BLOCK);
  whole.set(b, 5000);
  expect(await digestOf("within")).toEqual({
    size: 3 * BLOCK,
    sha256: sha256(whole),
    zeros: sha256("0-0\n2-2\n"),
  });
});

test("a terabyte of nothing takes a few looks", async () => {
  sparse("huge", 2 ** 40, [2 ** 39, Buffer.from("x")]);
  looks = 0;
  const blocks = 2 ** 40 / BLOCK;
  const zeros = sha256(`0-${blocks / 2 - 1}\n${blocks / 2 + 1}-${blocks - 1}\n`);
  expect(await digestOf("huge")).toMatchObject({ size: 2 ** 40, zeros });
  expect(looks).toBeLessThan(10);
});

test("a file with more names is read once", async () => {
  sparse("first", 64 * BLOCK, [0, Buffer.alloc(64 * BLOCK, "x")]);
  writeFileSync(join(dir, "other"), "said to be the same");
  const digest = createDigest(async () => {});
  const first = await digest({ dirFd, name: Buffer.from("first"), shared: 7n });
  expect(await digest({ dirFd, name: Buffer.from("other"), shared: 7n })).toBe(first);
  expect(await digest({ dirFd, name: Buffer.from("other"), shared: 8n })).not.toEqual(first);
});

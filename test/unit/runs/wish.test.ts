import { expect, test } from "bun:test";
import type { Change } from "../../../src/runs/worktree/compare.ts";
import { wishesOf } from "../../../src/runs/worktree/wish.ts";

async function* changes(count: number, depth = 1, above = "d"): AsyncGenerator<Change, void> {
  const names = Array.from({ length: depth }, () => Buffer.from(above));
  for (let n = 0; n < count; n++) {
    yield { path: [...names.slice(1), Buffer.from(`${n}`)], before: null, after: found(n) };
  }
}

function found(n: number): NonNullable<Change["after"]> {
  const name = Buffer.from(`${n}`);
  return {
    kind: "file",
    mode: 0o644,
    inode: n,
    shared: null,
    device: 1,
    size: 10,
    allocatedBytes: 4096,
    mtime: [0, 0],
    ctime: [0, 0],
    depth: 0,
    name,
    text: `${n}`,
    dirFd: -1,
  };
}

test("a merge takes a hundred thousand changes, and is refused when a run made more, or deeper ones", async () => {
  const { all, bytes, more } = await wishesOf(changes(100_000));
  expect(all.length).toBe(100_000);
  expect({ bytes, more }).toEqual({ bytes: 1_000_000, more: { bytes: 1_000_000, entries: 100_000 } });
  const refused = { code: "too_large" };
  expect(await wishesOf(changes(100_001)).catch((error: unknown) => error)).toMatchObject(refused);
  expect((await wishesOf(changes(1, 256))).all.length).toBe(1);
  expect(await wishesOf(changes(1, 257)).catch((error: unknown) => error)).toMatchObject(refused);
  // Few changes, far down below long names, would take gigabytes.
  expect((await wishesOf(changes(500, 256, "d".repeat(255)))).all.length).toBe(500);
  const long = await wishesOf(changes(1000, 256, "d".repeat(255))).catch((error: unknown) => error);
  expect(long).toMatchObject(refused);
});

import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { adoptBlobs } from "../../../src/blobs/adopt.ts";
import { createLocalStore, type LocalStore } from "../../../src/blobs/local.ts";
import { keysOf } from "../../fixtures/s3-store.ts";

let dir: string;
let from: LocalStore;
let to: LocalStore;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "cofferdam-blobs-"));
  from = createLocalStore(join(dir, "from"));
  to = createLocalStore(join(dir, "to"));
});
afterEach(() => rmSync(dir, { recursive: true }));

const quiet = { onProgress() {}, log: { info() {} } };

test("cut short anywhere, each blob is in one of the two, and the next time goes on", async () => {
  const keys = Array.from({ length: 100 }, (_, n) => `ns-${n % 3}/blobs/00/${n}`).toSorted();
  for (const key of keys) await from.put(key, Buffer.from(key));
  for (let failsAfter = 10; ; failsAfter += 30) {
    const left = { puts: failsAfter };
    const put = async (key: string, bytes: Uint8Array) => {
      if (left.puts-- <= 0) throw new Error("away");
      await to.put(key, bytes);
    };
    const failure = await adoptBlobs({ from, to: { ...to, put }, ...quiet }).then(
      () => null,
      (error: Error) => error.message,
    );
    const there = new Set([...(await keysOf(from, "")), ...(await keysOf(to, ""))]);
    expect([...there].toSorted()).toEqual(keys);
    if (failure === null) break;
    expect(failure).toBe("away");
  }
  expect(readdirSync(join(dir, "from"))).toEqual([]);
  for (const key of keys) expect(await to.get(key)).toEqual(Buffer.from(key));
});

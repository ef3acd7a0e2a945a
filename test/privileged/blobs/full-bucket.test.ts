import { afterAll, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { failureOf } from "../../fixtures/failure.ts";
import { startS3Server } from "../../fixtures/s3-server.ts";
import { keysOf, storeAt } from "../../fixtures/s3-store.ts";

const MIB = 1024 * 1024;
const root = mkdtempSync("/scratch/bucket-");
const run = (...argv: string[]) => {
  const { success, stderr } = Bun.spawnSync(argv);
  if (!success) throw new Error(stderr.toString());
};
afterAll(() => run("umount", "--lazy", root));

test("a server whose disk is full: 507, nothing half, and all goes on when there is room again", async () => {
  run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", root);
  await using server = await startS3Server({ root });
  const { store } = storeAt(server.endpoint);
  for (const key of ["a/w", "a/x"]) await store.put(key, new Uint8Array(7 * MIB).fill(1));
  for (const bytes of [7 * MIB, 20 * MIB]) {
    expect(await failureOf(store.put("a/y", new Uint8Array(bytes)))).toBe(
      "The store is full; delete something and try again.",
    );
  }
  expect(await keysOf(store, "")).toEqual(["a/w", "a/x"]);
  expect((await store.get("a/x"))?.length).toBe(7 * MIB);
  await store.delete(["a/x"]);
  await store.put("a/y", new Uint8Array(7 * MIB));
  expect(await keysOf(store, "")).toEqual(["a/w", "a/y"]);
});

import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { SealedBlobs } from "../../../src/blobs/sealed.ts";
import { decodeManifest, type ManifestRef } from "../../../src/snapshots/manifest.ts";
import { snapshotMaker } from "../../fixtures/snapshot-maker.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { treeOfManifest, treeOnDisk, type Tree } from "../../fixtures/tree.ts";

const SECRET = "what no tenant may ever see";

/** Whether a file of the snapshot holds the secret. */
async function holdsSecret(blobs: Pick<SealedBlobs, "get">, ref: ManifestRef): Promise<boolean> {
  for await (const batch of decodeManifest(blobs, ref)) {
    for (const entry of batch) {
      if (!("data" in entry)) continue;
      for (const [, id, offset, length] of entry.data) {
        const bytes = Buffer.from(await blobs.get(id)).subarray(offset, offset + length);
        if (bytes.includes(SECRET)) return true;
      }
    }
  }
  return false;
}

test("files and directories that turn into links to the outside are never followed", async () => {
  using outside = scratchDirectory();
  writeFileSync(join(outside.path, "secret"), SECRET);
  using maker = snapshotMaker();
  const at = (name: string) => join(maker.live, name);
  mkdirSync(at("dir"));
  writeFileSync(at("dir/secret"), "the tenant's own");
  symlinkSync(outside.path, at("dir2"));
  writeFileSync(at("file"), "the tenant's own");
  symlinkSync(join(outside.path, "secret"), at("file2"));
  writeFileSync(at("other"), "the tenant's own");
  Bun.spawnSync(["mkfifo", at("other2")]);
  const swapper = join(import.meta.dir, "../../fixtures/swapper.ts");
  const swappers = ["dir", "file", "other"].map((name) =>
    Bun.spawn([process.execPath, swapper, maker.live, name, `${name}2`], { stdout: "pipe" }),
  );
  try {
    await Promise.all(swappers.map(async ({ stdout }) => stdout.getReader().read()));
    // Positive control: who looks and then opens by name does see it.
    let seen = 0;
    const reads = (name: string) => {
      try {
        return readFileSync(at(name), "utf8").includes(SECRET);
      } catch {
        return false;
      }
    };
    while (seen < 3) seen += Number(reads("dir/secret")) + Number(reads("file"));
    let entries = 0;
    for (let round = 0; round < 100; round++) {
      const { manifest } = await maker.create();
      expect(await holdsSecret(maker.blobs, manifest)).toBe(false);
      for await (const batch of decodeManifest(maker.blobs, manifest)) entries += batch.length;
    }
    expect(entries).toBeGreaterThan(200);
  } finally {
    for (const child of swappers) child.kill("SIGKILL");
    await Promise.all(swappers.map(async ({ exited }) => exited));
  }
}, 60_000);

test("directories that are moved while the walk is deep in them do no harm", async () => {
  let moving = true;
  let still: Tree = new Map();
  using maker = snapshotMaker({
    isWarm: () => true,
    async freeze() {
      moving = false;
      still = treeOnDisk(maker.live);
      return {
        async thaw() {
          moving = true;
          return true;
        },
      };
    },
  });
  const deep = (levels: number) => Array.from({ length: levels }, (_, level) => `d${level}`).join("/");
  mkdirSync(join(maker.live, deep(60)), { recursive: true });
  for (let level = 1; level <= 60; level++) {
    for (let file = 0; file < 12; file++)
      writeFileSync(join(maker.live, deep(level), `f${file}`), `${level} ${file}`);
  }
  let moves = 0;
  const timer = setInterval(() => {
    if (!moving) return;
    // To the top and back: what lies above the walk is another directory meanwhile.
    const from = join(maker.live, deep(20));
    if (moves++ % 2 === 0) renameSync(from, join(maker.live, "away"));
    else renameSync(join(maker.live, "away"), from);
  });
  try {
    for (let round = 0; round < 5; round++) {
      const { manifest } = await maker.create();
      expect(await treeOfManifest(maker.blobs, manifest)).toEqual(still);
    }
  } finally {
    clearInterval(timer);
  }
  expect(moves).toBeGreaterThan(4);
}, 60_000);

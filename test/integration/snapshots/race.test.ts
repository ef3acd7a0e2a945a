import { expect, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createSealedBlobs } from "../../../src/blobs/sealed.ts";
import type { BlobStore } from "../../../src/blobs/store.ts";
import { AppError } from "../../../src/errors.ts";
import { createNamespaceKeys } from "../../../src/keys/namespace-keys.ts";
import { amount } from "../../fixtures/amount.ts";
import { memoryStore } from "../../fixtures/planted.ts";
import { snapshotFixture } from "../../fixtures/snapshots.ts";
import { treeOfManifest } from "../../fixtures/tree.ts";

/** Snapshots, deletions, restores, collections and writes, together, of every namespace. */
const ROUNDS = amount("ROUNDS", 1000);
const NAMESPACES = 3;
const FILES = 6;
/** Contents come again, so that a blob which was just collected is needed anew. */
const CONTENTS = 4;
const KEPT = 6;

const random = (below: number) => Math.floor(Math.random() * below);
/** A state of a namespace: all files of it are of one version. */
const contentOf = (version: number, file: number) =>
  `${version % CONTENTS} ${file} ${"x".repeat((version % CONTENTS) * 700 + file)}`;

/** In memory, with waits in which everything else may happen. */
function slowStore(): { store: BlobStore; objects: Map<string, Uint8Array> } {
  const { store, objects } = memoryStore();
  const wait = () => (Math.random() < 0.5 ? Promise.resolve() : Bun.sleep(random(3)));
  return {
    objects,
    store: {
      ...store,
      put: async (key, bytes) => {
        await wait();
        await store.put(key, bytes);
        await wait();
      },
      get: async (key) => {
        await wait();
        return store.get(key);
      },
      delete: async (keys) => {
        await wait();
        await store.delete(keys);
        await wait();
      },
      async *list(prefix) {
        const seen = await Array.fromAsync(store.list(prefix));
        for (const one of seen) {
          if (random(20) === 0) await Bun.sleep(1);
          yield one;
        }
      },
    },
  };
}

test("snapshot, delete, restore and collection race, and every snapshot that is left is whole", async () => {
  const { store, objects } = slowStore();
  await using fixture = await snapshotFixture({ wrap: () => store });
  const { snapshots, volumes, db, secrets } = fixture;
  const keys = createNamespaceKeys({ db, secrets });
  const done = { create: 0, remove: 0, restore: 0, collect: 0, write: 0, refused: 0 };
  let version = 0;

  async function life(rounds: number) {
    const mine = await fixture.namespace();
    const stateOnDisk = () => {
      const texts = Array.from({ length: FILES }, (_, file) =>
        readFileSync(join(mine.live, "d", String(file)), "utf8"),
      );
      return texts;
    };
    const write = async () =>
      volumes.leases.hold(mine.id, "write", async () => {
        const mineNow = ++version;
        mkdirSync(join(mine.live, "d"), { recursive: true });
        for (let file = 0; file < FILES; file++) {
          writeFileSync(join(mine.live, "d", String(file)), contentOf(mineNow, file));
          if (random(4) === 0) await Bun.sleep(0);
        }
        done.write += 1;
      });
    /** What there is now, or was a moment ago. */
    const anyOf = async () => {
      const all = await mine.list();
      return all.length === 0 ? null : all[random(all.length)]!;
    };
    const acts = {
      create: async () => {
        await mine.create();
        for (const old of (await mine.list()).slice(KEPT)) await acts.remove(old.id);
      },
      async remove(id?: string) {
        const which = id ?? (await anyOf())?.id;
        if (which !== undefined) await mine.remove(which);
      },
      async restore() {
        const which = await anyOf();
        if (which !== null) await mine.restore(which.id);
      },
      collect: async () => void (await snapshots.tidy.all()),
    };
    await write();
    await mine.create();
    const names = ["create", "remove", "restore", "collect"] as const;
    const actor = async () => {
      for (let round = 0; round < rounds; round++) {
        const act = names[random(names.length)]!;
        try {
          await acts[act]();
          done[act] += 1;
        } catch (error) {
          // Somebody else was faster with it.
          if (!(error instanceof AppError) || (error.code !== "not_found" && error.code !== "conflict"))
            throw error;
          done.refused += 1;
        }
        if (random(2) === 0) await write();
      }
    };
    await Promise.all([actor(), actor(), actor()]);
    const texts = stateOnDisk();
    expect(new Set(texts.map((text) => text[0])).size).toBe(1);
    return mine;
  }

  const perActor = Math.ceil(ROUNDS / NAMESPACES / 3);
  const lives = await Promise.all(Array.from({ length: NAMESPACES }, async () => life(perActor)));
  expect(fixture.warned).toEqual([]);

  let survived = 0;
  for (const mine of lives) {
    const blobs = createSealedBlobs({ store, namespace: mine.id, key: await keys.of(mine.id) });
    for (const { manifest } of await mine.list()) {
      const tree = await treeOfManifest(blobs, manifest);
      const first = [...tree.entries()].find(([path]) => path === "d/0")?.[1] ?? "";
      const which = Array.from({ length: CONTENTS }, (_, content) => content).find((content) =>
        first.endsWith(digest(contentOf(content, 0))),
      );
      for (let file = 0; file < FILES; file++) {
        expect(tree.get(`d/${file}`)?.split(" ").at(-1)).toBe(digest(contentOf(which ?? -1, file)));
      }
      survived += 1;
    }
  }
  console.log(`${JSON.stringify(done)}; ${survived} snapshots survived, each verified`);
  expect(survived).toBeGreaterThan(0);
  for (const count of [done.create, done.remove, done.restore, done.collect])
    expect(count).toBeGreaterThan(ROUNDS / 20);

  // And nothing is left when nothing needs it.
  for (const mine of lives) {
    for (const { id } of await mine.list()) await mine.remove(id);
    expect(readdirSync(mine.tmp)).toEqual([]);
  }
  await snapshots.tidy.idle();
  expect([...objects.keys()]).toEqual([]);
}, 120_000);

function digest(text: string): string {
  return new Bun.CryptoHasher("sha1").update(text).digest("hex");
}

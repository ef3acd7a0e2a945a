import { closeSync, mkdirSync, openSync } from "node:fs";
import { createLocalStore } from "../blobs/local.ts";
import type { BlobStore } from "../blobs/store.ts";
import { tryLock } from "../kernel/flock.ts";

const LOOK_EVERY_MS = 20;

/**
 * A directory as a target. Other than an appliance's own store it is several processes' at once, each with a store
 * over it: replacements take turns by a lock on the directory.
 */
export function createDirectoryTarget(dir: string): BlobStore {
  const store = createLocalStore(dir);
  return {
    ...store,
    async replace(key, bytes, expected) {
      mkdirSync(dir, { recursive: true, mode: 0o700 });
      const fd = openSync(dir, "r");
      try {
        while (!tryLock(fd, "exclusive")) await Bun.sleep(LOOK_EVERY_MS);
        return await store.replace(key, bytes, expected);
      } finally {
        closeSync(fd);
      }
    },
  };
}

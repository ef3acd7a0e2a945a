import { closeSync, mkdirSync, openSync } from "node:fs";
import { createLocalStore } from "../blobs/local.ts";
import { StaleVersion, type BlobStore, type StoredObject } from "../blobs/store.ts";
import { AppError } from "../errors.ts";
import { tryLock } from "../kernel/flock.ts";

const LOOK_EVERY_MS = 20;

/**
 * A directory as a target. Other than an appliance's own store it is several processes' at once, each with a store
 * over it: replacements take turns by a lock on the directory. And it may be any disk: what ails it is said of it.
 */
export function createDirectoryTarget(dir: string): BlobStore {
  const store = createLocalStore(dir);

  async function told<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw ofTarget(dir, error);
    }
  }

  return {
    put: async (key, bytes) => told(async () => store.put(key, bytes)),
    get: async (key) => told(async () => store.get(key)),
    delete: async (keys) => told(async () => store.delete(keys)),
    read: async (key) => told(async () => store.read(key)),
    tag: async (key) => told(async () => store.tag(key)),
    async *list(prefix): AsyncGenerator<StoredObject, void> {
      try {
        yield* store.list(prefix);
      } catch (error) {
        throw ofTarget(dir, error);
      }
    },
    replace: async (key, bytes, expected) =>
      told(async () => {
        mkdirSync(dir, { recursive: true, mode: 0o700 });
        const fd = openSync(dir, "r");
        try {
          while (!tryLock(fd, "exclusive")) await Bun.sleep(LOOK_EVERY_MS);
          return await store.replace(key, bytes, expected);
        } finally {
          closeSync(fd);
        }
      }),
  };
}

function ofTarget(dir: string, error: unknown): unknown {
  if (error instanceof StaleVersion) return error;
  if (error instanceof AppError) {
    if (error.code !== "no_space") return error;
    const why = `There is no room left in ${dir}; free some there, or remove old backups with "cofferdam backup prune", and try again.`;
    return new AppError("no_space", why, { cause: error });
  }
  if (!(error instanceof Error) || !("code" in error)) return error;
  const why = `${dir} can't be used for backups (${String(error.code)}); see that its disk is there and can be written.`;
  return new AppError("unavailable", why, { cause: error });
}

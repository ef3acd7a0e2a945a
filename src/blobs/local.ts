import { mkdir, open, readdir, readFile, rename, rm, rmdir, stat, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AppError, codeOf } from "../errors.ts";
import { checkKey, StaleVersion, type BlobStore, type StoredObject, type Version } from "./store.ts";

/** What an unfinished put is called; no key has a name that begins so. */
const TEMPORARY = ".new-";
/** Of a put into a directory that is removed again and again. */
const MAX_ATTEMPTS = 20;

export type LocalStore = BlobStore & {
  /** Removes what puts that a crash cut short have left. Before any call. */
  sweep(): Promise<void>;
};

/**
 * Blobs as files below `dir`, which is the appliance's own. A blob is there whole or not at all, and its name is on
 * the disk before `put` says so. `checkRoom` throws where the disk has none for so many bytes.
 */
export function createLocalStore(dir: string, checkRoom: (bytes: number) => void = () => {}): LocalStore {
  let made = 0;
  /** Directories that are known to be there, on the disk. */
  const known = new Set<string>();
  /** Replacements of one object take turns. */
  const turns = new Map<string, Promise<unknown>>();

  const pathOf = (key: string) => join(dir, checkKey(key));

  /** Makes missing directories, each durable in the one above. */
  async function ensureDirectory(path: string): Promise<void> {
    if (known.has(path)) return;
    if (path !== dir) await ensureDirectory(dirname(path));
    await mkdir(path, { mode: 0o700 }).catch(ignore("EEXIST"));
    await syncDirectory(dirname(path));
    if (known.size > 50_000) known.clear();
    known.add(path);
  }

  /** An empty directory may be removed before the file is in it. */
  async function write(path: string, bytes: Uint8Array): Promise<void> {
    checkRoom(bytes.length);
    for (let attempt = 1; ; attempt++) {
      try {
        return await writeOnce(path, bytes);
      } catch (error) {
        if (codeOf(error) !== "ENOENT" || attempt >= MAX_ATTEMPTS) throw failure(error);
        for (const above of directoriesOf(path)) known.delete(above);
      }
    }
  }

  async function writeOnce(path: string, bytes: Uint8Array): Promise<void> {
    await ensureDirectory(dirname(path));
    const temporary = join(dirname(path), `${TEMPORARY}${process.pid}-${made++}`);
    try {
      const file = await open(temporary, "wx", 0o600);
      try {
        await file.writeFile(bytes);
        await file.datasync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
    await syncDirectory(dirname(path));
  }

  /** From the innermost out, without `dir` itself. */
  function directoriesOf(path: string): string[] {
    const above = dirname(path);
    return above === dir || above === dirname(above) ? [] : [above, ...directoriesOf(above)];
  }

  /** Else a namespace that is long gone would keep some hundred directories. */
  async function removeIfEmpty(directories: readonly string[]): Promise<void> {
    for (const directory of directories) {
      known.delete(directory);
      const removed = await rmdir(directory).then(
        () => true,
        (error: unknown) => {
          if (codeOf(error) === "ENOENT") return true;
          if (codeOf(error) === "ENOTEMPTY" || codeOf(error) === "EEXIST") return false;
          throw error;
        },
      );
      if (!removed) return;
    }
  }

  async function inTurn<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = turns.get(key);
    const mine = (async () => {
      await before?.catch(() => {});
      return await work();
    })();
    turns.set(key, mine);
    try {
      return await mine;
    } finally {
      if (turns.get(key) === mine) turns.delete(key);
    }
  }

  async function readIfThere(key: string): Promise<Uint8Array | null> {
    try {
      return await readFile(pathOf(key));
    } catch (error) {
      if (codeOf(error) === "ENOENT") return null;
      throw failure(error);
    }
  }

  async function read(key: string): Promise<Version | null> {
    const bytes = await readIfThere(key);
    return bytes === null ? null : { bytes, tag: tagOf(bytes) };
  }

  return {
    async put(key, bytes) {
      await write(pathOf(key), bytes);
    },

    get: readIfThere,

    async delete(keys) {
      const paths = keys.map(pathOf);
      await Promise.all(paths.map(async (path) => unlink(path).catch(ignore("ENOENT"))));
      const byDirectory = new Map(paths.map((path) => [dirname(path), path]));
      for (const path of byDirectory.values()) await removeIfEmpty(directoriesOf(path));
    },

    async *list(prefix) {
      const start = prefix.endsWith("/") ? prefix.slice(0, -1) : dirname(prefix);
      for await (const object of filesBelow(dir, start === "." ? "" : start)) {
        if (object.key.startsWith(prefix)) yield object;
      }
    },

    read,
    tag: async (key) => (await read(key))?.tag ?? null,

    replace: async (key, bytes, expected) =>
      inTurn(key, async () => {
        const found = await read(key);
        if ((found?.tag ?? null) !== expected) throw new StaleVersion(key);
        await write(pathOf(key), bytes);
        return tagOf(bytes);
      }),

    async sweep() {
      for await (const path of temporariesBelow(dir)) await rm(path, { force: true });
    },
  };
}

async function* filesBelow(root: string, relative: string): AsyncGenerator<StoredObject> {
  for (const entry of await entriesOf(join(root, relative))) {
    const key = relative === "" ? entry.name : `${relative}/${entry.name}`;
    if (entry.isDirectory()) yield* filesBelow(root, key);
    if (!entry.isFile() || entry.name.startsWith(TEMPORARY)) continue;
    const status = await stat(join(root, key)).catch(ignore("ENOENT"));
    if (status !== undefined) yield { key, sizeBytes: status.size, modifiedAt: status.mtimeMs };
  }
}

async function* temporariesBelow(path: string): AsyncGenerator<string> {
  for (const entry of await entriesOf(path)) {
    const below = join(path, entry.name);
    if (entry.isDirectory()) yield* temporariesBelow(below);
    else if (entry.name.startsWith(TEMPORARY)) yield below;
  }
}

async function entriesOf(path: string) {
  return (await readdir(path, { withFileTypes: true }).catch(ignore("ENOENT"))) ?? [];
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function tagOf(bytes: Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
}

function failure(error: unknown): unknown {
  if (codeOf(error) !== "ENOSPC" && codeOf(error) !== "EDQUOT") return error;
  return new AppError("no_space", "The disk is full; delete something and try again.", { cause: error });
}

function ignore(code: string): (error: unknown) => undefined {
  return (error) => {
    if (codeOf(error) !== code) throw error;
  };
}

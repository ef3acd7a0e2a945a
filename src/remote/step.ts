import type { Descriptor } from "../volumes/descriptor.ts";
import { createPause } from "../volumes/pause.ts";
import { createPath, type Entry, type MoreEntry } from "../snapshots/manifest.ts";
import { walk, type Found } from "../snapshots/walk.ts";

type Named = Exclude<Entry, MoreEntry>;

/** An entry of a manifest and what is on the disk in its place; valid until the next one is asked for. */
export interface Pair {
  readonly entry: Named;
  readonly found: Found;
}

/** A tree is not what the manifest says: `path` is missing, is something else, or is too much. */
export class Differs extends Error {
  constructor(path: Uint8Array) {
    super(`it differs at ${JSON.stringify(Buffer.from(path).toString())}`);
    this.name = "Differs";
  }
}

const KIND = { dir: "directory", file: "file", link: "file", symlink: "link" } as const;

/**
 * A tree beside its manifest, entry by entry; data that follows a file is given as it comes. Throws Differs as soon as
 * one has a name that the other has not, or another kind of thing under it.
 */
export async function* inStep(
  root: Descriptor,
  manifest: AsyncIterable<readonly Entry[]>,
): AsyncGenerator<Pair | MoreEntry, void> {
  const pause = createPause();
  const path = createPath();
  const walking = walk(root);
  try {
    for await (const entries of manifest) {
      for (const entry of entries) {
        if (entry.type === "more") {
          yield entry;
          continue;
        }
        path.enter(entry);
        const found = await nextOf(walking, pause);
        if (found === null || !isAt(found, entry)) throw new Differs(path.bytes());
        yield { entry, found };
      }
    }
    const extra = await nextOf(walking, pause);
    if (extra !== null) throw new Differs(extra.name);
  } finally {
    walking.return();
  }
}

function isAt(found: Found, entry: Named): boolean {
  return found.depth === entry.depth && found.kind === KIND[entry.type] && found.name.equals(entry.name);
}

async function nextOf(
  walking: Generator<Found | null, void>,
  pause: () => Promise<void>,
): Promise<Found | null> {
  for (;;) {
    const { done, value } = walking.next();
    if (done === true) return null;
    await pause();
    if (value !== null && value !== undefined) return value;
  }
}

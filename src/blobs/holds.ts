import type { NamespaceId } from "../ids.ts";

/** What names blobs that have to stay: a manifest, by the blobs that it is in. */
interface Named {
  readonly blobs: readonly string[];
}

interface Entry {
  sharing: number;
  readonly pins: Set<Named>;
  /** Ends when whoever has the blobs to itself is done. */
  alone: Promise<void> | null;
  onFree: (() => void) | null;
}

export type Holds = ReturnType<typeof createHolds>;

/**
 * Keeps garbage collection from taking a namespace's blobs from under somebody. Who stores blobs, or counts on one that
 * is there already, shares a hold until a row or HEAD names them. Who reads a manifest for long pins it instead, so that a slow
 * download holds nobody up. Collecting has the blobs to itself.
 */
export function createHolds() {
  const entries = new Map<NamespaceId, Entry>();

  function entryOf(id: NamespaceId): Entry {
    const entry = entries.get(id) ?? { sharing: 0, pins: new Set(), alone: null, onFree: null };
    entries.set(id, entry);
    return entry;
  }

  function tidy(id: NamespaceId, entry: Entry): void {
    if (entry.sharing === 0) entry.onFree?.();
    const idle = entry.sharing === 0 && entry.pins.size === 0 && entry.alone === null;
    if (idle && entry.onFree === null && entries.get(id) === entry) entries.delete(id);
  }

  async function share<T>(id: NamespaceId, work: () => Promise<T>): Promise<T> {
    for (let busy = entries.get(id)?.alone; busy != null; busy = entries.get(id)?.alone) await busy;
    const entry = entryOf(id);
    entry.sharing += 1;
    try {
      return await work();
    } finally {
      entry.sharing -= 1;
      tidy(id, entry);
    }
  }

  return {
    share,

    /**
     * What `find` names is kept from before anybody could take it, until `release` is called, once.
     */
    async pin<F extends { readonly manifest: Named }>(
      id: NamespaceId,
      find: () => Promise<F>,
    ): Promise<{ readonly found: F; readonly release: () => void }> {
      return share(id, async () => {
        const found = await find();
        const entry = entryOf(id);
        // Two may read one row, and one row may be one object.
        const pin = { blobs: found.manifest.blobs };
        entry.pins.add(pin);
        const release = () => {
          entry.pins.delete(pin);
          tidy(id, entry);
        };
        return { found, release };
      });
    },

    pins: (id: NamespaceId): readonly Named[] => [...(entries.get(id)?.pins ?? [])],

    /** Waits until nobody shares; those who come wait from then on only, so that nobody is held up by a wait. */
    async alone<T>(id: NamespaceId, work: () => Promise<T>): Promise<T> {
      for (;;) {
        const entry = entryOf(id);
        if (entry.alone !== null) {
          await entry.alone;
          continue;
        }
        if (entry.sharing === 0) {
          const { promise, resolve } = Promise.withResolvers<void>();
          entry.alone = promise;
          try {
            return await work();
          } finally {
            entry.alone = null;
            resolve();
            tidy(id, entry);
          }
        }
        await new Promise<void>((resolve) => {
          const others = entry.onFree;
          entry.onFree = () => {
            entry.onFree = null;
            others?.();
            resolve();
          };
        });
      }
    },
  };
}

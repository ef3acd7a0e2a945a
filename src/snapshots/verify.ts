import { DamagedBlob, type BlobId, type SealedBlobs } from "../blobs/sealed.ts";
import { createPause } from "../volumes/pause.ts";
import { createFlow } from "./flow.ts";
import { createPath, decodeManifest, type ManifestRef } from "./manifest.ts";

const AT_ONCE = 4;
/** Of what one damaged blob hurts. */
const PATHS_SHOWN = 20;

export interface Damage {
  readonly blob: BlobId;
  readonly reason: string;
  /** The files whose content it held a part of; names that are not UTF-8 with U+FFFD. Empty for `list`. */
  readonly paths: readonly string[];
  /** Files beyond those. */
  readonly more: number;
  /** It held a part of the list of files itself: without it nothing of the snapshot can be restored. */
  readonly list: boolean;
}

export interface Verified {
  readonly blobs: number;
  readonly bytes: number;
  readonly damage: readonly Damage[];
}

export type Verifier = ReturnType<typeof createVerifier>;

/**
 * Reads all that a namespace's snapshots need, each blob once, and finds out what is missing or damaged. With `pace`, one
 * at a time, and that is awaited after each.
 */
export function createVerifier(blobs: Pick<SealedBlobs, "get">, pace?: () => Promise<void>) {
  /** 32 characters each, not 64: there may be a million. */
  const whole = new Set<string>();
  const damaged = new Map<BlobId, string>();
  const short = (id: BlobId) => Buffer.from(id, "hex").toString("latin1");

  /** The content's length; null for one that was read before, or is damaged. */
  async function look(id: BlobId): Promise<number | null> {
    if (damaged.has(id) || whole.has(short(id))) return null;
    whole.add(short(id));
    try {
      return (await blobs.get(id)).length;
    } catch (error) {
      whole.delete(short(id));
      if (!(error instanceof DamagedBlob)) throw error;
      damaged.set(id, error.reason);
      return null;
    }
  }

  return {
    async verify(ref: ManifestRef, signal?: AbortSignal): Promise<Verified> {
      const counted = { blobs: 0, bytes: 0 };
      const flow = createFlow(pace === undefined ? AT_ONCE : 1);
      const pause = createPause(signal);
      const check = (id: BlobId) =>
        flow.start(async () => {
          const length = await look(id);
          if (length === null) return;
          await pace?.();
          counted.blobs += 1;
          counted.bytes += length;
        });
      for (const id of ref.blobs) await check(id);
      await flow.end();
      const lists = ref.blobs.filter((id) => damaged.has(id));
      if (lists.length > 0)
        return { ...counted, damage: lists.map((blob) => ({ ...about(blob), list: true })) };

      let last: BlobId | null = null;
      for await (const batch of decodeManifest(blobs, ref)) {
        for (const entry of batch) {
          for (const [, id] of "data" in entry ? entry.data : []) {
            if (id !== last) await check(id);
            last = id;
          }
          await pause();
        }
      }
      await flow.end();
      return { ...counted, damage: damaged.size === 0 ? [] : await hurt(blobs, ref, damaged) };
    },
  };

  function about(blob: BlobId) {
    return { blob, reason: damaged.get(blob) ?? "", paths: [], more: 0 };
  }
}

/** What damaged blobs hurt in one snapshot; those that it does not need are left out. */
export async function hurt(
  blobs: Pick<SealedBlobs, "get">,
  ref: ManifestRef,
  damaged: ReadonlyMap<BlobId, string>,
): Promise<Damage[]> {
  const found = new Map<BlobId, { paths: string[]; more: number; last: unknown }>();
  const where = createPath();
  const pause = createPause();
  let file: unknown = null;
  for await (const batch of decodeManifest(blobs, ref)) {
    for (const entry of batch) {
      if (entry.type !== "more") file = entry;
      where.enter(entry);
      for (const [, id] of "data" in entry ? entry.data : []) {
        if (!damaged.has(id)) continue;
        const hurts = found.get(id) ?? { paths: [], more: 0, last: null };
        found.set(id, hurts);
        if (hurts.last === file) continue;
        hurts.last = file;
        if (hurts.paths.length < PATHS_SHOWN) hurts.paths.push(`workspace/${where.bytes().toString()}`);
        else hurts.more += 1;
      }
      await pause();
    }
  }
  return [...found].map(([blob, { paths, more }]) => ({
    blob,
    reason: damaged.get(blob) ?? "",
    paths,
    more,
    list: false,
  }));
}

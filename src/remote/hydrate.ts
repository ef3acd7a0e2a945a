import type { SealedBlobs } from "../blobs/sealed.ts";
import type { NamespaceId } from "../ids.ts";
import { constants, mkdirAt, openBeneath } from "../kernel/openat2.ts";
import { buildEntries } from "../snapshots/build.ts";
import {
  decodeManifest,
  readHead,
  readLines,
  type Entry,
  type Head as ManifestHead,
  type ManifestRef,
  type Row,
} from "../snapshots/manifest.ts";
import { OPEN_DIRECTORY } from "../volumes/beneath.ts";
import { Descriptor } from "../volumes/descriptor.ts";
import { purge } from "../volumes/purge.ts";
import type { Space } from "../volumes/space.ts";
import type { Disk } from "../volumes/volumes.ts";
import { merged } from "./delta.ts";
import type { Head } from "./head.ts";
import { restamp } from "./restamp.ts";

/** Of a workspace that nobody has said anything else of. */
export const EMPTY_ROOT: ManifestHead["root"] = { mode: 0o755, mtime: [0, 0] };

export interface HydrateParts {
  readonly id: NamespaceId;
  readonly disk: Disk;
  readonly blobs: SealedBlobs;
  readonly manifests: Pick<SealedBlobs, "get" | "put">;
  readonly head: Pick<Head, "base" | "delta">;
}

/** All that the head says, in a manifest's order. */
export async function* entriesOf(
  blobs: Pick<SealedBlobs, "get">,
  { base, delta }: HydrateParts["head"],
): AsyncGenerator<readonly Entry[], void> {
  yield* merged(base === null ? nothing() : decodeManifest(blobs, base), delta);
}

/** The same for who only compares them, which is quicker with lines as they are. */
export async function* rowsOf(
  blobs: Pick<SealedBlobs, "get">,
  head: HydrateParts["head"],
): AsyncGenerator<readonly Row[], void> {
  if (head.base !== null && head.delta.size === 0) yield* readLines(blobs, head.base);
  else yield* entriesOf(blobs, head);
}

async function* nothing(): AsyncGenerator<readonly Entry[], void> {}

/**
 * Fetches the namespace's files and puts them in the place of whatever is there: nobody has the volume open, and a
 * failure leaves it as it was. Returns their manifest with what tells on this disk whether they have changed.
 */
export async function hydrate(parts: HydrateParts, space: Space): Promise<ManifestRef> {
  const { id, disk, blobs, manifests, head } = parts;
  const name = disk.freshName();
  mkdirAt(space.tmp.fd, name, 0o700);
  try {
    using root = new Descriptor(openBeneath(space.tmp.fd, name, OPEN_DIRECTORY | constants.O_NOFOLLOW));
    const about = head.base === null ? EMPTY_ROOT : (await readHead(manifests, head.base)).root;
    await buildEntries({ blobs, entries: entriesOf(manifests, head), root: about }, root);
    // Nobody else can have changed them so far, so only what was built last need be compared or read again.
    const ref = await restamp(manifests, root, entriesOf(manifests, head), Date.now());
    disk.exchange(id, name);
    return ref;
  } finally {
    // What was in the way, or what has not become whole.
    await purge(space.tmp, name, { freshName: disk.freshName });
  }
}

import { createSealedBlobs, type BlobId, type SealedBlobs } from "../blobs/sealed.ts";
import type { BlobStore } from "../blobs/store.ts";
import { AppError, codeOf } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import { openBeneath } from "../kernel/openat2.ts";
import type { NamespaceKey } from "../keys/namespace-keys.ts";
import type { Log } from "../log.ts";
import type { Standstill } from "../snapshots/create.ts";
import { readHead, type ManifestRef } from "../snapshots/manifest.ts";
import { OPEN_DIRECTORY } from "../volumes/beneath.ts";
import { Descriptor } from "../volumes/descriptor.ts";
import { isEmptyDirectory } from "../kernel/directory.ts";
import type { Opener } from "../volumes/leases.ts";
import { purge } from "../volumes/purge.ts";
import type { Space } from "../volumes/space.ts";
import type { Disk } from "../volumes/volumes.ts";
import { createManifestCache } from "./cache.ts";
import { ClaimLost, openClaim, type Claim } from "./claim.ts";
import type { Epochs } from "./epochs.ts";
import { createHeadCodec, headKey } from "./head.ts";
import { entriesOf, hydrate } from "./hydrate.ts";
import { keepFile } from "./keep.ts";
import type { Mirror } from "./mirror.ts";
import { namesOf } from "./place.ts";
import { createReplica, goneHere, type Replica } from "./replica.ts";
import { isSame } from "./same.ts";

/** Of manifests, opened, in memory. */
const CACHE_BYTES = 64 * 1024 * 1024;
/** Half of what another host waits for, so that the last deletion has long arrived by then. */
const COLLECTION_MS = 30_000;

export interface RemoteParts {
  readonly store: BlobStore;
  readonly keyOf: (id: NamespaceId) => Promise<NamespaceKey>;
  readonly epochs: Epochs;
  /** This data directory, in this boot of its machine: what a power cut left of the files is not relied on. */
  readonly host: string;
  readonly disk: Disk;
  /** Ends what runs in the namespace. */
  readonly stopSandbox: (id: NamespaceId) => Promise<void>;
  readonly standstill: Pick<Standstill, "freeze">;
  /** Keeps what is stored meanwhile from being collected as garbage. */
  readonly sharing: <T>(id: NamespaceId, work: () => Promise<T>) => Promise<T>;
  readonly log: Pick<Log, "info" | "warn" | "error">;
}

interface Opened {
  readonly replica: Replica;
  readonly blobs: SealedBlobs;
}

/** Namespaces in S3 mode: the bucket has them, and this host's directories of those that it serves are copies. */
export function createRemote(parts: RemoteParts): Mirror & Opener {
  const { store, keyOf, epochs, host, disk, stopSandbox, standstill, sharing, log } = parts;
  const run = crypto.randomUUID();
  const cache = createManifestCache(CACHE_BYTES);
  const opened = new Map<NamespaceId, Opened>();
  /** Claimed by this process once, and so not a second time from another host. */
  const claimed = new Set<NamespaceId>();
  const lost = new Set<NamespaceId>();
  const commands = new Map<NamespaceId, number>();
  /** Whose sandbox has what was the directory before, until it is stopped. */
  const ending = new Map<NamespaceId, Promise<void>>();
  /** While blobs are deleted, the claim they are deleted under is the only one of this process. */
  const collections = new Map<NamespaceId, Promise<void>>();

  async function open(id: NamespaceId): Promise<void> {
    await ending.get(id);
    await collections.get(id);
    if (lost.has(id)) throw new ClaimLost();
    const key = await keyOf(id);
    const blobs = createSealedBlobs({ store, namespace: id, key });
    const codec = createHeadCodec(id, key);
    const known = await epochs.of(id);
    const again = claimed.has(id);
    const claim = await openClaim({ store, namespace: id, codec, host, run, again, known }).catch(
      (error: unknown) => {
        if (error instanceof ClaimLost) lost.add(id);
        throw error;
      },
    );
    claimed.add(id);
    if (claim.before !== null && claim.before.epoch < known) {
      log.error("the bucket has gone back to an older state of a namespace; what was written since is gone", {
        namespace: id,
        epoch: claim.before.epoch,
        known,
      });
    }
    await epochs.note(id, claim.head.epoch);
    const stored: { base: ManifestRef | null; blobs: ReadonlySet<BlobId> } = { base: null, blobs: new Set() };
    const manifests = cache.of(blobs, (blob) => {
      const { base } = claim.head;
      if (stored.base !== base) Object.assign(stored, { base, blobs: new Set(base?.blobs) });
      return stored.blobs.has(blob);
    });
    const replica = await sharing(id, async () => {
      await takeFiles(id, claim, blobs, manifests);
      return createReplica({
        claim,
        blobs,
        manifests,
        space: () => disk.space(id),
        still: async (work) => still(id, work),
        isRunning: () => commands.has(id),
        sharing: async (work) => sharing(id, work),
        onEnd: (why) => end(id, why),
      });
    });
    opened.set(id, { replica, blobs });
    // A namespace from before there was a bucket.
    if (claim.before === null && !isEmptyHere(id)) await replica.all();
  }

  /** Sees to it that the directory has what the head says. */
  async function takeFiles(
    id: NamespaceId,
    claim: Claim,
    blobs: SealedBlobs,
    manifests: Pick<SealedBlobs, "get" | "put">,
  ): Promise<void> {
    const { before } = claim;
    if (before === null) return;
    using space = needed(disk.space(id));
    const started = before.base === null ? 0 : (await readHead(manifests, before.base)).started;
    const manifest = entriesOf(manifests, before);
    if (before.host === host && (await isSame({ blobs, live: space.live, manifest, started }))) return;
    const since = performance.now();
    const base = await hydrate({ id, disk, blobs, manifests, head: before }, space);
    await claim.put({ base, delta: new Map() });
    log.info("a namespace was fetched from the bucket", {
      namespace: id,
      ms: Math.round(performance.now() - since),
    });
  }

  /** Runs `work` while no command of the namespace moves. */
  async function still<T>(id: NamespaceId, work: () => Promise<T>): Promise<T> {
    const frozen = await standstill.freeze(id);
    let stood = true;
    let result: T;
    try {
      result = await work();
    } finally {
      if (frozen !== null) stood = await frozen.thaw();
    }
    if (stood) return result;
    throw new AppError(
      "unavailable",
      "The namespace has more files than can be looked at while its other commands wait; run them one after the other.",
      { retryAfterS: 5 },
    );
  }

  function isEmptyHere(id: NamespaceId): boolean {
    using space = needed(disk.space(id));
    using live = new Descriptor(openBeneath(space.live.fd, ".", OPEN_DIRECTORY));
    return isEmptyDirectory(live.fd);
  }

  /** What is here counts no more. Calls under way fail when they ask. */
  function end(id: NamespaceId, why: "lost" | "gone"): void {
    if (why === "lost") lost.add(id);
    opened.delete(id);
    disk.forget(id);
    log.warn(
      why === "lost"
        ? "another host has claimed a namespace; it is not served here any more"
        : "a namespace's directory is gone; it is fetched again when it is used",
      { namespace: id },
    );
    const clearing = clear(id, why).finally(() => {
      if (ending.get(id) === clearing) ending.delete(id);
    });
    ending.set(id, clearing);
  }

  async function clear(id: NamespaceId, why: "lost" | "gone"): Promise<void> {
    try {
      await stopSandbox(id);
      if (why === "lost") await dropFiles(id);
    } catch (error) {
      log.warn("a namespace that is not served any more was not cleared away", {
        namespace: id,
        cause: error,
      });
    }
  }

  async function dropFiles(id: NamespaceId): Promise<void> {
    using space = disk.space(id);
    if (space === null) return;
    const name = disk.freshName();
    try {
      disk.setAside(id, name);
    } catch (error) {
      if (codeOf(error) !== "ENOENT") throw error;
    }
    await purge(space.tmp, name, { freshName: disk.freshName });
  }

  function replicaOf(id: NamespaceId): Opened {
    if (lost.has(id)) throw new ClaimLost();
    const found = opened.get(id);
    if (found === undefined) throw goneHere();
    return found;
  }

  const mirror: Mirror & Opener = {
    open,

    async close(id) {
      // What the bucket does not have yet would be lost with the knowledge of it.
      if (opened.get(id)?.replica.dirty === true) await opened.get(id)?.replica.settle();
      await opened.get(id)?.replica.lane.idle();
      await collections.get(id);
      opened.delete(id);
    },

    ready: async (id) => replicaOf(id).replica.ready(),
    sharing,
    keep: async (id, fd) => keepFile(replicaOf(id).blobs, fd),

    async changed(id, dirFd, name, kept) {
      const { replica } = replicaOf(id);
      using space = disk.space(id);
      const names = space === null ? null : namesOf(space.live, dirFd);
      await replica.place(names === null ? null : { names: [...names, Buffer.from(name)], kept: [kept] });
    },

    commit: async (id) => replicaOf(id).replica.all(),

    async running(id, command) {
      await replicaOf(id).replica.ready();
      commands.set(id, (commands.get(id) ?? 0) + 1);
      try {
        return await command();
      } finally {
        const left = (commands.get(id) ?? 1) - 1;
        if (left === 0) commands.delete(id);
        else commands.set(id, left);
        await replicaOf(id).replica.all();
      }
    },

    amend: async (id, work) => replicaOf(id).replica.amend(work),
    replace: async (id, ref, swap) => replicaOf(id).replica.replace(ref, swap),
    confirm: async (id) => replicaOf(id).replica.confirm(),

    async remove(id) {
      await opened.get(id)?.replica.lane.idle();
      opened.delete(id);
      lost.delete(id);
      claimed.delete(id);
      // First, so that nobody can commit any more.
      await store.delete([headKey(id)]);
    },

    async collecting(id, collect) {
      const found = opened.get(id);
      if (found === undefined || found.replica.dirty) return null;
      const { promise, resolve } = Promise.withResolvers<void>();
      collections.set(id, promise);
      try {
        // From before the mark, so that whoever sees that waits long enough.
        const until = performance.now() + COLLECTION_MS;
        const { base, delta } = await found.replica.beginCollection();
        const data = delta.values().flatMap((change) => (change?.type === "file" ? change.data : []));
        const roots = [...(base === null ? [] : [base]), ...data.map(([, blob]) => ({ blobs: [blob] }))];
        return await collect({ roots, until });
      } finally {
        // Failing that, whoever claims it next waits a while.
        await found.replica.endCollection().catch(() => {});
        collections.delete(id);
        resolve();
      }
    },
  };
  return mirror;
}

function needed(space: Space | null): Space {
  if (space === null) throw new Error("a namespace's directories are gone");
  return space;
}

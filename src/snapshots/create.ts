import { DamagedBlob, type BlobId, type SealedBlobs } from "../blobs/sealed.ts";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import { lookFd, type Look } from "../kernel/look.ts";
import { openBeneath } from "../kernel/openat2.ts";
import { syncFileSystem } from "../kernel/syncfs.ts";
import { OPEN_DIRECTORY } from "../volumes/beneath.ts";
import { unmirrored, type Mirror } from "../remote/mirror.ts";
import { Descriptor } from "../volumes/descriptor.ts";
import type { Leases } from "../volumes/leases.ts";
import { createPause, type Pause } from "../volumes/pause.ts";
import type { Space } from "../volumes/space.ts";
import { readHead, readLines, type Head, type ManifestRef } from "./manifest.ts";
import { createPacker, type Packer } from "./pack.ts";
import { pass, TooMuch, type Earlier, type PassParts } from "./pass.ts";
import { createSpool } from "./spool.ts";

/** A file that changed less than this before the base began may have changed again within the same tick, or a clock was set. */
const TRUST_AFTER_S = 2;
/** The same between passes a moment apart: some ticks of the kernel's clock, which is what ctime is read from. */
const TICKS_S = 0.05;

/** What may be read while writes and commands wait; when more has changed, all is gone over once more before. */
const LITTLE = { files: 500, bytes: 8 * 1024 * 1024 };
/** Of a base's manifest, what is held in memory: of some hundred thousand files. */
const HELD_BLOBS = 32;
/** Then what is left is read while they wait, however much it is. */
const PASSES_AT_MOST = 3;

/** Stops what runs in a namespace. */
export interface Standstill {
  /** Whether commands may be running in it, or something that they left. */
  isWarm(id: NamespaceId): boolean;
  /** Resolves when nothing of it runs any more; null when there is nothing. */
  freeze(id: NamespaceId): Promise<Frozen | null>;
}

export interface Frozen {
  /** False when it did not stand still all the time. */
  thaw(): Promise<boolean>;
}

/** What one pass says to the next. */
type Before = Omit<Earlier<string>, "entries"> & { readonly entries: () => Earlier<string>["entries"] };

export interface SnapshotMakerParts {
  readonly leases: Pick<Leases, "hold" | "exclusive">;
  readonly openSpace: (id: NamespaceId) => Space;
  readonly blobsOf: (id: NamespaceId) => Promise<SealedBlobs>;
  readonly standstill: Standstill;
  /** Whose word it takes, in the end, that the files were still this host's to tell of. */
  readonly mirror?: Pick<Mirror, "confirm">;
}

export interface Made {
  readonly manifest: ManifestRef;
  /** Of the files' contents, each file once. */
  readonly sizeBytes: number;
  /** What it added to the store. */
  readonly storedBytes: number;
  readonly fileCount: number;
  readonly skipped: number;
  /** How long writes and commands waited. */
  readonly pausedMs: number;
  /** What was not in the store before, and what had to be read; before compression. */
  readonly newBytes: number;
  readonly readBytes: number;
}

export type SnapshotMaker = ReturnType<typeof createSnapshotMaker>;

/**
 * Makes manifests of namespaces as they are at one moment. As a virtual machine is moved: while writes wait and the
 * commands stand still, all files are looked at, and those that changed are read. If they are too many, that is given
 * up, everything goes on, and meanwhile they are read; then it is tried anew, with what has changed since. So what a
 * snapshot holds is what was on the disk while nothing moved.
 *
 * A store through a mapping shows in a file's ctime only when its page was clean before. So whatever a later look relies
 * on begins with a flush of the file system, which makes all pages clean.
 */
export function createSnapshotMaker(parts: SnapshotMakerParts) {
  const { leases, openSpace, blobsOf, standstill, mirror = unmirrored } = parts;

  async function make(id: NamespaceId, base: ManifestRef | null, signal?: AbortSignal): Promise<Made> {
    const blobs = await blobsOf(id);
    const manifests = base === null ? blobs : knowing(blobs, base);
    const packer = createPacker(blobs);
    const pause = createPause(signal);
    let root: Look | null = null;
    let readBytes = 0;

    async function onePass(earlier: Before | null, limit?: PassParts["limit"]) {
      using space = openSpace(id);
      const { live } = space;
      const look = lookFd(live.fd);
      if (root !== null && look.inode !== root.inode) throw restored();
      root = look;
      const spool = createSpool({ blobs: manifests, closeBundle: packer.close });
      const from = earlier === null ? null : { ...earlier, entries: earlier.entries() };
      const tally = await pass({
        live,
        earlier: from,
        packer,
        add: (row) => spool.add(row),
        pause,
        ...(limit && { limit }),
      });
      readBytes += tally.read.bytes;
      const { files, bytes, skipped } = tally;
      const head = { started, root: { mode: look.mode, mtime: look.mtime }, files, bytes, skipped };
      return { spool, tally, head };
    }

    /** null when more has changed than is read while others wait. */
    async function passWhilePaused(earlier: Before, isLast: boolean) {
      try {
        return await paused(id, async () => onePass(earlier, isLast ? undefined : LITTLE));
      } catch (error) {
        if (error instanceof TooMuch) return null;
        throw error;
      }
    }

    const started = await flushed(id);
    let earlier = base === null ? null : await beforeOf(blobs, base, { packer, pause });
    for (let passes = 0; ; passes++) {
      const last = earlier && (await passWhilePaused(earlier, passes === PASSES_AT_MOST));
      if (last !== null) {
        const [contents, manifest] = await Promise.all([packer.end(), last.spool.finish(last.head)]);
        return {
          manifest: manifest.ref,
          sizeBytes: last.tally.bytes,
          storedBytes: contents.storedBytes + manifest.storedBytes,
          fileCount: last.tally.files,
          skipped: last.tally.skipped,
          pausedMs: last.pausedMs,
          newBytes: contents.newBytes,
          readBytes,
        };
      }
      const begun = passes === 0 ? started : await flushed(id);
      const { spool, head } = await onePass(earlier);
      const entries = await spool.lines(head);
      earlier = { entries, trustedBefore: begun / 1000 - TICKS_S, repack: new Set() };
    }
  }

  /** Runs `work` while nothing changes the files. */
  async function paused<T extends object>(id: NamespaceId, work: () => Promise<T>) {
    return await leases.exclusive(id, async () => {
      const since = performance.now();
      const frozen = await standstill.freeze(id);
      let stood = true;
      let done: T;
      try {
        done = await work();
      } finally {
        if (frozen !== null) stood = await frozen.thaw();
      }
      if (!stood) throw tooLong();
      return { ...done, pausedMs: performance.now() - since };
    });
  }

  /** The time from which on every store shows: what was stored before has been flushed. */
  async function flushed(id: NamespaceId): Promise<number> {
    const begun = Date.now();
    if (standstill.isWarm(id)) {
      using space = openSpace(id);
      using live = new Descriptor(openBeneath(space.live.fd, ".", OPEN_DIRECTORY));
      await syncFileSystem(live.fd);
    }
    return begun;
  }

  return {
    /**
     * Everything is durable when it resolves. `base` is an earlier manifest of the namespace, which must not lose blobs
     * meanwhile: only what changed since is read. If it is damaged, all is read.
     */
    create: async (
      id: NamespaceId,
      { base = null, signal }: { base?: ManifestRef | null; signal?: AbortSignal } = {},
    ): Promise<Made> =>
      leases.hold(id, "read", async () => {
        const made = await make(id, base, signal).catch(async (error: unknown) => {
          if (base === null || !(error instanceof DamagedBlob)) throw error;
          return make(id, null, signal);
        });
        await mirror.confirm(id);
        return made;
      }),
  };
}

/** Most blobs of a manifest are those of the one before, and need not be stored again. */
function knowing(blobs: SealedBlobs, { blobs: ids }: ManifestRef): Pick<SealedBlobs, "get" | "put"> {
  const known = new Set(ids);
  return {
    get: async (id) => blobs.get(id),
    async put(plain, id = blobs.idOf(plain)) {
      return known.has(id) ? { id, storedBytes: 0 } : blobs.put(plain, id);
    },
  };
}

async function beforeOf(
  blobs: SealedBlobs,
  base: ManifestRef,
  { packer, pause }: { readonly packer: Packer; readonly pause: Pause },
): Promise<Before> {
  const head: Head = await readHead(blobs, base);
  const repack = new Set<BlobId>(head.repack);
  // Not while others wait, unless there are too many to hold.
  const held = base.blobs.length > HELD_BLOBS ? null : await Array.fromAsync(readLines(blobs, base));
  const lines = () => (held === null ? readLines(blobs, base) : each(held));
  packer.learnFrom(async () => {
    for await (const batch of lines()) {
      for (const line of batch) packer.learn(line, repack);
      await pause();
    }
  });
  return {
    entries: lines,
    trustedBefore: head.started / 1000 - TRUST_AFTER_S,
    repack,
  };
}

async function* each<T>(values: readonly T[]): AsyncGenerator<T, void> {
  yield* values;
}

function restored(): AppError {
  return new AppError("conflict", "The namespace was restored while the snapshot was made. Make it again.");
}

function tooLong(): AppError {
  return new AppError(
    "unavailable",
    "The namespace has more files than can be looked at while its commands wait. Try again when no command runs.",
    { retryAfterS: 30 },
  );
}

import type { SealedBlobs } from "../blobs/sealed.ts";
import { AppError } from "../errors.ts";
import { statFd } from "../kernel/directory.ts";
import { openBeneath } from "../kernel/openat2.ts";
import { syncFileSystem } from "../kernel/syncfs.ts";
import { decodeManifest, readHead, readLines, type ManifestRef } from "../snapshots/manifest.ts";
import { OPEN_DIRECTORY } from "../volumes/beneath.ts";
import { Descriptor } from "../volumes/descriptor.ts";
import type { Space } from "../volumes/space.ts";
import { ClaimLost, type Claim } from "./claim.ts";
import { capture, type Earlier } from "./capture.ts";
import { encodeDelta, fold, pathKey } from "./delta.ts";
import type { Head } from "./head.ts";
import { EMPTY_ROOT, rowsOf } from "./hydrate.ts";
import { createLane } from "./lane.ts";
import { lookAtPlace, type Place } from "./place.ts";
import { restamp } from "./restamp.ts";

/** A delta of more is written as a manifest: every commit sends all of it. */
const MAX_DELTA_BYTES = 256 * 1024;
/** To look at each costs some system calls, in one go. */
const MAX_PLACES = 500;

/** Some ticks of the kernel's clock, which is what a file's times are read from. */
const TICKS_MS = 50;
/** The same where the clock may have been set since. */
const OTHER_RUN_MS = 2_000;

/** What a turn is wanted for. */
type Member =
  /** That an answer over what was read before is still true. */
  | { readonly kind: "confirm" }
  /** null: nobody knows where it is. */
  | { readonly kind: "place"; readonly place: Place | null }
  | { readonly kind: "all" }
  /** `work` changes many files, between two looks at them. It does not throw. */
  | { readonly kind: "amend"; readonly work: () => Promise<void> }
  /** `swap` puts another directory in place, with the files of this manifest. */
  | { readonly kind: "replace"; readonly ref: ManifestRef; readonly swap: () => Promise<void> };

export interface ReplicaParts {
  readonly claim: Claim;
  readonly blobs: SealedBlobs;
  /** As `blobs`, for what manifests are made of. */
  readonly manifests: Pick<SealedBlobs, "get" | "put">;
  readonly space: () => Space | null;
  /** Runs `work` while no command of the namespace runs on. */
  readonly still: <T>(work: () => Promise<T>) => Promise<T>;
  /** Whether commands run. */
  readonly isRunning: () => boolean;
  /** Keeps what is stored meanwhile from being collected as garbage. */
  readonly sharing: <T>(work: () => Promise<T>) => Promise<T>;
  /** The claim was lost, or the directory is gone: what is on this disk counts no more. */
  readonly onEnd: (why: "lost" | "gone") => void;
}

export type Replica = ReturnType<typeof createReplica>;

/**
 * One namespace whose truth is in the bucket, and whose directory is a copy of that, a little ahead of it while a change
 * is under way. All that concerns the bucket's head happens in turns.
 */
export function createReplica(parts: ReplicaParts) {
  const { claim, blobs, manifests, space, still, isRunning, sharing, onEnd } = parts;
  /** Something was changed here that the bucket does not have: the next turn begins with that. */
  let dirty = false;
  /** All was as the head says when this was begun; else the manifest says when it was made. */
  let verifiedAt: number | null = null;
  let ended = false;
  const live = { inode: inodeOfLive() };

  function inodeOfLive(): bigint | null {
    using found = space();
    return found === null ? null : statFd(found.live.fd).inode;
  }

  function end(why: "lost" | "gone"): void {
    if (ended) return;
    ended = true;
    onEnd(why);
  }

  /** A command's copy of it is mounted, so it is never replaced while somebody uses it, except by our own hands. */
  function opened(): Space {
    const found = space();
    if (found !== null && statFd(found.live.fd).inode === live.inode) return found;
    found?.[Symbol.dispose]();
    end("gone");
    throw goneHere();
  }

  async function guarded(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (error instanceof ClaimLost) end("lost");
      throw error;
    }
  }

  const lane = createLane<Member>(async (members) => guarded(async () => turn(members)));

  async function turn(members: readonly Member[]): Promise<void> {
    if (claim.lost) throw new ClaimLost();
    if (!dirty && members.every(({ kind }) => kind === "confirm")) {
      opened()[Symbol.dispose]();
      await claim.check();
      return;
    }
    try {
      await sharing(async () => putChanges(members));
      dirty = false;
    } catch (error) {
      dirty = true;
      throw error;
    }
  }

  async function putChanges(members: readonly Member[]): Promise<void> {
    const places = members.flatMap((member) => (member.kind === "place" ? [member.place] : []));
    let whole = dirty || members.some(({ kind }) => kind === "all" || kind === "amend");
    for (const member of members) {
      if (member.kind === "amend") await amended(member);
      if (member.kind !== "replace") continue;
      await putReplaced(member);
      // What else is wanted was asked for before, or beside.
      whole ||= members.length > 1;
      if (!whole) return;
    }
    using found = opened();
    if (whole || !(await putPlaces(found, places))) await putAll(found);
  }

  async function putReplaced({ ref, swap }: Member & { kind: "replace" }): Promise<void> {
    opened()[Symbol.dispose]();
    await swap();
    live.inode = inodeOfLive();
    using found = opened();
    const base = await restamp(manifests, found.live, decodeManifest(manifests, ref), Date.now());
    await claim.put({ base, delta: new Map() });
    verifiedAt = null;
  }

  async function amended({ work }: Member & { kind: "amend" }): Promise<void> {
    opened()[Symbol.dispose]();
    await work();
  }

  /** False when only a look at everything can tell. */
  async function putPlaces({ live }: Space, places: readonly (Place | null)[]): Promise<boolean> {
    const { base, delta } = claim.head;
    if (places.length > MAX_PLACES) return false;
    let next = delta;
    for (const place of byPath(places)) {
      const changes = place === null ? null : lookAtPlace(live, place, next);
      const folded = changes === null ? null : fold(next, changes);
      if (folded === null) return false;
      next = folded;
    }
    if (sizeOf(next) > MAX_DELTA_BYTES) return false;
    await claim.put({ base, delta: next });
    return true;
  }

  async function putAll({ live: dir }: Space): Promise<void> {
    const look = async (earlier: Earlier) => capture({ live: dir, blobs, manifests, earlier });
    const started = Date.now();
    const before = await earlierOf(claim.head);
    let ref: ManifestRef | null;
    if (isRunning()) {
      // A store through a mapping shows in a file's times only when its page was clean before.
      using readable = new Descriptor(openBeneath(dir.fd, ".", OPEN_DIRECTORY));
      await syncFileSystem(readable.fd);
      // What is much is read and sent while they run on, so that they are stopped for what is left.
      const ahead = await look(before);
      const little = ahead === null ? before : await earlierAt(ahead, started - TICKS_MS);
      ref = (await still(async () => look(little))) ?? ahead;
    } else {
      ref = await look(before);
    }
    if (ref === null) await claim.check();
    else await claim.put({ base: ref, delta: new Map() });
    verifiedAt = started;
  }

  async function earlierAt(ref: ManifestRef, trustedBefore: number): Promise<Earlier> {
    const { root, repack } = await readHead(manifests, ref);
    return { entries: () => readLines(manifests, ref), rootMode: root.mode, trustedBefore, repack };
  }

  async function earlierOf(head: Head): Promise<Earlier> {
    const about =
      head.base === null
        ? { started: 0, root: EMPTY_ROOT, repack: [] }
        : await readHead(manifests, head.base);
    const { started, root, repack } = about;
    return {
      entries: () => rowsOf(manifests, head),
      rootMode: root.mode,
      trustedBefore: verifiedAt === null ? started - OTHER_RUN_MS : verifiedAt - TICKS_MS,
      repack,
    };
  }

  return {
    lane,
    confirm: async () => lane.join({ kind: "confirm" }),
    place: async (place: Place | null) => lane.join({ kind: "place", place }),
    all: async () => lane.join({ kind: "all" }),
    replace: async (ref: ManifestRef, swap: () => Promise<void>) => lane.join({ kind: "replace", ref, swap }),

    async amend<T>(work: () => Promise<T>): Promise<T> {
      // Others share the turn, and must not fail with it.
      const { promise, resolve, reject } = Promise.withResolvers<T>();
      promise.catch(() => {});
      await lane.join({ kind: "amend", work: async () => work().then(resolve, reject) });
      return promise;
    },

    /** Before a change: what failed before has to have got there. */
    async ready(): Promise<void> {
      if (claim.lost) throw new ClaimLost();
      if (dirty && !lane.busy) await lane.join({ kind: "all" });
    },
    /** Everything is in the bucket, and the bucket is still ours. */
    settle: async () => lane.join({ kind: dirty ? "all" : "confirm" }),
    /** For who keeps all from being stored meanwhile, so that no turn writes the head. Returns what has to stay. */
    async beginCollection(): Promise<Head> {
      await guarded(async () => claim.put({ collecting: true }));
      return claim.head;
    },
    async endCollection(): Promise<void> {
      await guarded(async () => claim.put({ collecting: false }));
    },
    get head(): Head {
      return claim.head;
    },
    get dirty(): boolean {
      return dirty;
    },
  };
}

export function goneHere(): AppError {
  return new AppError(
    "unavailable",
    "The namespace's directory on this host was removed; it is fetched from the bucket again.",
    { retryAfterS: 1 },
  );
}

/** Each place once. */
function byPath(places: readonly (Place | null)[]): (Place | null)[] {
  const found = new Map<string, Place>();
  for (const place of places) {
    if (place === null) return [null];
    const key = pathKey(place.names);
    found.set(key, { names: place.names, kept: [...(found.get(key)?.kept ?? []), ...place.kept] });
  }
  return [...found.values()];
}

function sizeOf(delta: Head["delta"]): number {
  return encodeDelta(delta).reduce((sum, [key, line]) => sum + key.length + (line?.length ?? 4), 0);
}

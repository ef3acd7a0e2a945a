import type { Announce } from "../../audit/announce.ts";
import type { SealedBlobs } from "../../blobs/sealed.ts";
import { AppError } from "../../errors.ts";
import type { NamespaceId, RunId } from "../../ids.ts";
import {
  chownLinkAt,
  closeFd,
  constants,
  fchmodFd,
  fchownFd,
  linkAt,
  openBeneath,
  setModified,
  symlinkAt,
} from "../../kernel/openat2.ts";
import { syncFileSystem } from "../../kernel/syncfs.ts";
import type { Standstill } from "../../snapshots/create.ts";
import { createFlow } from "../../snapshots/flow.ts";
import { readHead } from "../../snapshots/manifest.ts";
import { openContent } from "../../snapshots/read.ts";
import { createBlobReader } from "../../snapshots/reader.ts";
import { OPEN_DIRECTORY } from "../../volumes/beneath.ts";
import { Descriptor } from "../../volumes/descriptor.ts";
import { TENANT } from "../../volumes/parents.ts";
import type { Pause } from "../../volumes/pause.ts";
import { createReach } from "../../volumes/reach.ts";
import type { CheckRoom } from "../../volumes/replace.ts";
import type { Volumes } from "../../volumes/volumes.ts";
import type { Base } from "./base.ts";
import { targetOf, type Change } from "./compare.ts";
import { createCopier } from "./copy.ts";
import { planOf, type Conflict, type OnConflict, type Plan } from "./plan.ts";
import { createVerdicts, nameOf } from "./verdict.ts";
import { wishesOf, type After, type Wish } from "./wish.ts";

const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
/** Files that are copied at once. */
const AT_ONCE = 8;
/** Conflicts that are named. */
const MAX_NAMED = 1000;

/** Nothing was merged, since both sides have changed these. */
export class MergeConflict extends AppError {
  readonly conflicts: readonly Conflict[];
  /** There are more than are named. */
  readonly truncated: boolean;

  constructor(conflicts: readonly Conflict[]) {
    const [first] = conflicts;
    const more = conflicts.length - 1;
    const others = more === 0 ? "" : ` and ${more} more ${more === 1 ? "path" : "paths"}`;
    super(
      "conflict",
      `Nothing was merged: both the run and the namespace have changed ${first?.path ?? ""}${others}. Say whose side counts by on_conflict: run or namespace.`,
    );
    this.name = "MergeConflict";
    this.conflicts = conflicts.slice(0, MAX_NAMED);
    this.truncated = conflicts.length > MAX_NAMED;
  }
}

export interface Merged {
  /** Files and links that came or went. */
  readonly files: number;
  /** Paths at which one side had to yield. */
  readonly resolved: number;
  /** FIFOs, sockets and devices of the run's, which stay behind. */
  readonly skipped: number;
}

export interface MergeParts {
  readonly volumes: Pick<Volumes, "amend" | "leases" | "space">;
  readonly standstill: Standstill;
}

export interface MergeCall {
  readonly run: RunId;
  readonly namespaceId: NamespaceId;
  readonly base: Base;
  readonly work: Descriptor;
  readonly blobs: SealedBlobs;
  readonly changes: AsyncGenerator<Change, void>;
  readonly pause: Pause;
  readonly onConflict: OnConflict;
  readonly announce: Announce;
  /** Called when all of it is made, before the event. */
  readonly made: () => Promise<void>;
}

/**
 * Puts what a run has changed into its namespace, all of it or nothing. Who has changed what since the fork is found out
 * while the namespace goes on, and once more while it stands still.
 */
export async function merge({ volumes, standstill }: MergeParts, call: MergeCall): Promise<Merged> {
  const { namespaceId: id, base, work, blobs, pause, onConflict } = call;
  const { all: wishes, skipped, bytes, more } = await wishesOf(call.changes);
  const numbers = new Map(wishes.map((wish, index) => [wish, String(index)]));
  const readyName = (wish: Wish) => numbers.get(wish) ?? "";
  const ofNamespace = base.from === "namespace" && base.manifest !== null;
  const started = ofNamespace && base.manifest !== null ? (await readHead(blobs, base.manifest)).started : 0;
  using verdicts = createVerdicts({ work, reader: createBlobReader(blobs), started, pause });
  let merged: Merged = { files: 0, resolved: 0, skipped };

  async function plan(live: Descriptor): Promise<Plan> {
    const found = await planOf({ wishes, live, work, verdicts, onConflict, readyName, pause });
    if (found.conflicts.length > 0 && onConflict === "fail") throw new MergeConflict(found.conflicts);
    return found;
  }

  // A conflict that is there already needs no copies to be found.
  await volumes.leases.hold(id, "read", async () => {
    using space = volumes.space(id);
    if (standstill.isWarm(id)) await flush(space.live);
    await plan(space.live);
  });
  await volumes.amend(id, {
    more,
    bytes,
    prepare: async (dir, checkRoom) => prepare({ wishes, work, dir, readyName, checkRoom, pause }),
    async plan(live) {
      const { steps, files, conflicts } = await plan(live);
      merged = { files, resolved: conflicts.length, skipped };
      return steps;
    },
    async alone(amend) {
      const frozen = await standstill.freeze(id);
      try {
        return await amend();
      } finally {
        await frozen?.thaw();
      }
    },
    data: () => ({ run_id: call.run, ...merged, on_conflict: onConflict }),
    announce: call.announce,
    made: call.made,
  });
  return merged;
}

/** A store through a mapping shows in a file's times only when its page was clean before. */
async function flush(live: Descriptor): Promise<void> {
  using readable = new Descriptor(openBeneath(live.fd, ".", OPEN_DIRECTORY));
  await syncFileSystem(readable.fd);
}

interface Preparing {
  readonly wishes: readonly Wish[];
  readonly work: Descriptor;
  /** Where it is put, each under its name. */
  readonly dir: Descriptor;
  readonly readyName: (wish: Wish) => string;
  readonly checkRoom: CheckRoom;
  readonly pause: Pause;
}

async function prepare({ wishes, work, dir, readyName, checkRoom, pause }: Preparing): Promise<void> {
  using reach = createReach(work);
  const flow = createFlow(AT_ONCE);
  const copier = createCopier();
  /** Of files with more names: under which one it lies ready. */
  const shared = new Map<bigint, string>();

  async function copy(
    name: string,
    content: Disposable & { readonly fd: number },
    after: After,
  ): Promise<void> {
    using _ = content;
    const fd = openBeneath(dir.fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    try {
      if (!(await copier.copy(content.fd, after, fd))) throw moved();
      fchownFd(fd, TENANT, TENANT);
      // After the chown, which takes setuid and setgid away.
      fchmodFd(fd, after.mode);
      setModified(fd, after.mtime);
    } finally {
      closeFd(fd);
    }
  }

  try {
    for (const wish of wishes) {
      const { path, after } = wish;
      if (after === null || after.kind === "directory") continue;
      await pause();
      const name = readyName(wish);
      const first = after.shared === null ? undefined : shared.get(after.shared);
      const { dir: from, depth } = reach.to(path.slice(0, -1));
      if (depth < path.length - 1) throw moved();
      if (after.kind === "link") {
        const target = targetOf(from.fd, nameOf(wish));
        if (target === null) throw moved();
        symlinkAt(target, dir.fd, name);
        chownLinkAt(dir.fd, name, TENANT, TENANT);
        setModified(dir.fd, after.mtime, name);
      } else if (first === undefined) {
        checkRoom(after.size);
        const content = openContent(from.fd, nameOf(wish));
        if (content === null) throw moved();
        if (after.shared !== null) shared.set(after.shared, name);
        await flow.start(async () => copy(name, content, after));
      } else {
        linkAt(dir.fd, first, dir.fd, name);
      }
    }
  } finally {
    await flow.end();
  }
}

function moved(): AppError {
  return new AppError("conflict", "The run's worktree was changed while it was merged; nothing was.");
}

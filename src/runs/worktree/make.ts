import { and, desc, eq, isNotNull } from "drizzle-orm";
import type { Holds } from "../../blobs/holds.ts";
import type { SealedBlobs } from "../../blobs/sealed.ts";
import type { Database } from "../../db/open.ts";
import { runs, snapshots } from "../../db/schema.ts";
import type { NamespaceId, RunId } from "../../ids.ts";
import { buildTree, type Built } from "../../snapshots/build.ts";
import type { SnapshotMaker } from "../../snapshots/create.ts";
import { dataBytesOf, manifestRef, readHead, runBase, type ManifestRef } from "../../snapshots/manifest.ts";
import { createSnapshotRows } from "../../snapshots/rows.ts";
import type { Descriptor } from "../../volumes/descriptor.ts";
import { createPause } from "../../volumes/pause.ts";
import type { Volumes } from "../../volumes/volumes.ts";
import type { RunRequest } from "../request.ts";
import type { RunRows } from "../rows.ts";
import { EMPTY, type Base } from "./base.ts";
import { liveSource } from "./live.ts";
import { writeStamps } from "./stamps.ts";

export interface MakeParts {
  readonly db: Database;
  readonly rows: Pick<RunRows, "update">;
  readonly volumes: Pick<Volumes, "leases" | "space">;
  readonly maker: SnapshotMaker;
  readonly holds: Holds;
  readonly blobsOf: (id: NamespaceId) => Promise<SealedBlobs>;
  /** Throws no_space when the disk has no room for so many bytes. */
  readonly checkRoom: (bytes: number) => void;
}

export interface MakeCall {
  readonly run: { readonly id: RunId; readonly namespaceId: NamespaceId };
  readonly source: RunRequest["worktree"];
  readonly signal: AbortSignal;
}

export interface Made extends Built {
  readonly base: Base;
  /** Until the base was known, and until the files were there. */
  readonly baseMs: number;
  readonly filesMs: number;
}

/** Puts into empty worktrees what their runs are to find there. */
export function createMaking(parts: MakeParts) {
  const { db, rows, volumes, maker, holds, blobsOf, checkRoom } = parts;
  const snapshotRows = createSnapshotRows(db);

  /** What was last known of the namespace's files, so that only what has changed since is read. */
  async function newestOf(id: NamespaceId): Promise<ManifestRef | null> {
    const [snapshot] = await db
      .select({ at: snapshots.createdAt, manifest: snapshots.manifest })
      .from(snapshots)
      .where(eq(snapshots.namespaceId, id))
      .orderBy(desc(snapshots.createdAt))
      .limit(1);
    const forks = await db
      .select({ at: runs.createdAt, base: runs.base })
      .from(runs)
      .where(and(eq(runs.namespaceId, id), isNotNull(runs.base)))
      .orderBy(desc(runs.createdAt))
      .limit(16);
    const fork = forks
      .map(({ at, base }) => ({ at, ...runBase.parse(base) }))
      .find(({ from }) => from === "namespace");
    if (fork?.manifest != null && fork.at >= (snapshot?.at ?? 0)) return fork.manifest;
    return snapshot === undefined ? null : manifestRef.parse(snapshot.manifest);
  }

  /** From when this resolves, the row keeps the base's blobs. */
  async function baseFor({ run, source, signal }: MakeCall): Promise<Base> {
    const { id, namespaceId } = run;
    const keep = async (base: Base) => {
      await rows.update(id, { base });
      return base;
    };
    switch (source.from) {
      case "empty":
        return await keep(EMPTY);
      case "snapshot": {
        const { found, release } = await holds.pin(namespaceId, async () =>
          snapshotRows.find(namespaceId, source.snapshot_id),
        );
        try {
          return await keep({ from: "snapshot", manifest: found.manifest });
        } finally {
          release();
        }
      }
      case "namespace":
        return await holds.share(namespaceId, async () => {
          const newest = await newestOf(namespaceId);
          const { manifest } = await maker.create(namespaceId, { base: newest, signal });
          return await keep({ from: "namespace", manifest });
        });
      default:
        return source satisfies never;
    }
  }

  async function build({ run, signal }: MakeCall, { from, manifest: ref }: Base, work: Descriptor) {
    if (ref === null) return { files: 0, bytes: 0 };
    const { namespaceId } = run;
    const blobs = await blobsOf(namespaceId);
    checkRoom(await dataBytesOf(blobs, ref, createPause(signal)));
    const { started } = await readHead(blobs, ref);
    if (from !== "namespace") return buildTree({ blobs, ref, signal, checkRoom }, work);
    return volumes.leases.hold(namespaceId, "read", async () => {
      using space = volumes.space(namespaceId);
      using source = liveSource(space.live, started);
      return await buildTree({ blobs, ref, signal, checkRoom, source }, work);
    });
  }

  return {
    /** `own` is the run's directory, `work` its worktree, which is empty. */
    async make(call: MakeCall, { own, work }: { own: Descriptor; work: Descriptor }): Promise<Made> {
      const begun = performance.now();
      const base = await baseFor(call);
      const known = performance.now();
      const built = await build(call, base, work);
      await writeStamps(own, work);
      return {
        ...built,
        base,
        baseMs: Math.round(known - begun),
        filesMs: Math.round(performance.now() - known),
      };
    },
  };
}

import type { Found } from "../../snapshots/walk.ts";
import { AppError } from "../../errors.ts";
import type { Before } from "./before.ts";
import type { Change } from "./compare.ts";

/** A merge holds all of this in memory, and the namespace up for each. */
const LIMITS = { changes: 100_000, depth: 256, pathBytes: 48 * 1024 * 1024 };
/** Of each name of a path, beside its bytes. */
const NAME_OVERHEAD = 8;

/** What a run has changed at a path, as far as a merge has to know. */
export interface Wish {
  readonly path: readonly Uint8Array[];
  readonly before: Before | null;
  /** null: it is to be gone. */
  readonly after: After | null;
}

export interface After extends Pick<Found, "mode" | "size" | "mtime" | "shared" | "inode" | "ctime"> {
  readonly kind: "directory" | "file" | "link";
}

export interface Wishes {
  readonly all: readonly Wish[];
  /** FIFOs, sockets and devices, and what stands at their paths in the namespace, which stays. */
  readonly skipped: number;
  /** Of files' contents that come. */
  readonly bytes: number;
  /** What the namespace has more of, if it still is what the run began with. */
  readonly more: { readonly bytes: number; readonly entries: number };
}

export async function wishesOf(changes: AsyncGenerator<Change, void>): Promise<Wishes> {
  const all: Wish[] = [];
  const more = { bytes: 0, entries: 0 };
  let bytes = 0;
  let skipped = 0;
  let pathBytes = 0;
  for await (const { path, before, after } of changes) {
    if (after?.kind === "other") {
      skipped += 1;
      continue;
    }
    pathBytes += path.reduce((sum, name) => sum + name.length + NAME_OVERHEAD, 0);
    if (all.length >= LIMITS.changes || path.length > LIMITS.depth) throw tooMuch();
    if (pathBytes > LIMITS.pathBytes) throw tooLong();
    all.push({ path, before, after: after === null ? null : afterOf(after) });
    const [was, is] = [sizeOf(before), after?.kind === "file" ? after.size : 0];
    if (after?.kind === "file") bytes += after.size;
    more.bytes += is - was;
    more.entries += Number(before === null) - Number(after === null);
  }
  return {
    all,
    skipped,
    bytes,
    more: { bytes: Math.max(0, more.bytes), entries: Math.max(0, more.entries) },
  };
}

function afterOf({ kind, mode, size, mtime, shared, inode, ctime }: Found): After {
  if (kind === "other") throw new Error("a merge takes no such thing along");
  return { kind, mode, size, mtime, shared, inode, ctime };
}

function sizeOf(before: Before | null): number {
  return before?.type === "file" ? before.size : 0;
}

function tooMuch(): AppError {
  return new AppError(
    "too_large",
    `A merge takes at most ${LIMITS.changes} changes, ${LIMITS.depth} directories deep; this run made more.`,
  );
}

function tooLong(): AppError {
  return new AppError(
    "too_large",
    `The paths that this run has changed are longer than the ${LIMITS.pathBytes / 1024 / 1024} MiB that a merge takes.`,
  );
}

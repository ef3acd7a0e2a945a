import type { NamespaceId } from "../ids.ts";
import type { FilesystemStatus } from "../kernel/statfs.ts";
import type { Log } from "../log.ts";
import type { Floor } from "./floor.ts";
import { amountOf, diskFull, stop, type Running } from "./running.ts";
import type { Amount } from "./usage.ts";
import type { UsageTable } from "./usage-table.ts";

/** Of a sandbox: more than this not yet written back tells who is filling the disk. */
const WRITER_BYTES = 4 * 1024 * 1024;
/** After so long below the floor those whose files show it are looked for, and at last all are stopped. */
const SEARCH_AFTER_MS = 300;
const STOP_ALL_AFTER_MS = 1000;
/** A command that is stopped is gone by then. */
const SETTLING_MS = 400;
/** What a namespace may have grown by below the floor before its commands are stopped. */
const STRAY: Amount = { bytes: 1024 * 1024, entries: 256 };

/** The disk has less than its floor. */
interface Shortage {
  readonly since: number;
  readonly first: FilesystemStatus;
  /** When somebody was last found to write, or that was looked for, and what the disk had then; of the former, soon after. */
  mark: { readonly at: number; readonly status: FilesystemStatus; readonly settles: boolean };
  /** Whose files were counted since, due or not. */
  readonly searched: Set<Running>;
}

export interface ReliefParts {
  readonly table: UsageTable;
  readonly floor: Floor;
  /** What each namespace's sandbox has written and the disk does not have yet. */
  readonly writers: () => Promise<ReadonlyMap<NamespaceId, number>>;
  readonly log: Pick<Log, "warn">;
}

/** Below the disk's floor, commands that write are stopped: at first those who are seen to. */
export function createRelief({ table, floor, writers, log }: ReliefParts, running: () => Running[]) {
  let shortage: Shortage | null = null;
  let relieving = false;

  async function relieve(short: Shortage, now: FilesystemStatus): Promise<void> {
    relieving = true;
    try {
      const found = await findWriters(short);
      for (const entry of found) stop(entry, diskFull());
      const at = performance.now();
      const { at: marked, settles } = short.mark;
      if (found.length === 0 && at - marked < STOP_ALL_AFTER_MS) {
        // What those that were stopped wrote to the last must not be held against the others.
        if (settles && at - marked < SETTLING_MS) short.mark = { ...short.mark, status: now };
        return;
      }
      if (found.length === 0 && hasFallen(short.mark.status, now)) stopAll();
      short.mark = { at, status: now, settles: found.length > 0 };
    } catch (cause) {
      log.warn("nobody can tell who fills the disk: every command is stopped", { cause });
      stopAll();
    } finally {
      relieving = false;
    }
  }

  async function findWriters({ since, first, searched }: Shortage): Promise<Running[]> {
    // With sandboxd away it takes longer.
    const dirty = await writers().catch(() => new Map<NamespaceId, number>());
    const found = running().filter(({ account }) => (dirty.get(account.id) ?? 0) > WRITER_BYTES);
    // Small files take inodes, and hardly any bytes to be seen by.
    const inodes = first.availableBytes >= floor.bytes();
    if (!inodes && performance.now() - since < SEARCH_AFTER_MS) return found;
    const all = running();
    const grown = await Promise.all(all.map(async (entry) => hasGrown(entry, searched)));
    return [...found, ...all.filter((_, index) => grown[index])];
  }

  async function hasGrown(entry: Running, searched: Set<Running>): Promise<boolean> {
    const { account, before } = entry;
    const most = { bytes: before.bytes + STRAY.bytes, entries: before.entries + STRAY.entries };
    if (account.counting !== null) await account.counting;
    else if (!searched.has(entry) || table.dueIn(account, true) <= 0) await table.recount(account, most);
    else return false;
    searched.add(entry);
    const now = amountOf(account);
    return now.bytes > most.bytes || now.entries > most.entries;
  }

  function stopAll(): void {
    for (const entry of running()) stop(entry, diskFull());
  }

  return {
    /** To be called again and again while commands run. */
    look(now: FilesystemStatus): void {
      if (floor.isAbove(now)) {
        shortage = null;
        return;
      }
      const at = performance.now();
      shortage ??= { since: at, first: now, mark: { at, status: now, settles: false }, searched: new Set() };
      if (!relieving) void relieve(shortage, now);
    },
  };
}

function hasFallen(before: FilesystemStatus, now: FilesystemStatus): boolean {
  const bytes = before.availableBytes - now.availableBytes;
  return bytes > STRAY.bytes || before.freeFiles - now.freeFiles > STRAY.entries;
}

import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import type { FilesystemStatus } from "../kernel/statfs.ts";
import type { Log } from "../log.ts";
import type { Floor } from "./floor.ts";
import type { Quota } from "./quota.ts";
import type { Amount } from "./usage.ts";
import type { Account, UsageTable } from "./usage-table.ts";

/** How often the disk is looked at while commands run: a few microseconds each time. */
const TICK_MS = 50;
/** What the disk does not show (holes, growth that hides behind another's deletion) is looked for this often. */
const RECOUNT_MS = 2000;
/** Of a sandbox: more than this not yet written back tells who is filling the disk. */
const WRITER_BYTES = 4 * 1024 * 1024;
/** After so long below the floor those whose files show it are looked for, and at last all are stopped. */
const SEARCH_AFTER_MS = 300;
const STOP_ALL_AFTER_MS = 1000;
/** What a namespace may have grown by below the floor before its commands are stopped. */
const STRAY: Amount = { bytes: 1024 * 1024, entries: 256 };

/** Why a command had to be stopped. */
export interface Stop {
  readonly ended: "over_quota" | "disk_full";
  /** What its caller is told instead of a result. */
  readonly error: AppError;
}

/** A command that runs. */
export interface Watched {
  /** Aborted when it has to be stopped. */
  readonly stopped: AbortSignal;
  /** It is over; null when all is well. */
  end(): Promise<Stop | null>;
}

interface Entry {
  readonly account: Account;
  readonly commands: Set<AbortController>;
  /** What the namespace had at most when the first of them began: one that has too much already may keep it. */
  readonly before: Amount;
  countedAt: number;
}

/** The disk has less than its floor. */
interface Shortage {
  readonly since: number;
  readonly first: FilesystemStatus;
  /** When somebody was last found to write, or that was looked for, and what the disk had then. */
  mark: { readonly at: number; readonly status: FilesystemStatus };
  /** Whose files were counted since, due or not. */
  readonly searched: Set<Entry>;
}

export interface GrowthParts {
  readonly table: UsageTable;
  readonly quota: Quota;
  readonly floor: Floor;
  /** What each namespace's sandbox has written and the disk does not have yet. */
  readonly writers: () => Promise<ReadonlyMap<NamespaceId, number>>;
  readonly log: Pick<Log, "warn">;
}

export type Growth = ReturnType<typeof createGrowth>;

/**
 * Stops commands that take their namespace over what it may have, or the disk below its floor. Nothing tells api what a
 * command writes, but a namespace can't grow by more than the disk shrinks: so only where that could pass a limit, its
 * files are counted.
 */
export function createGrowth({ table, quota, floor, writers, log }: GrowthParts) {
  const entries = new Map<NamespaceId, Entry>();
  let last = floor.status();
  let ticking: Timer | undefined;
  let shortage: Shortage | null = null;
  let relieving = false;

  function look(): void {
    const now = floor.status();
    const risen = {
      bytes: Math.max(0, last.availableBytes - now.availableBytes),
      entries: Math.max(0, last.freeFiles - now.freeFiles),
    };
    last = now;
    for (const { account } of entries.values()) {
      account.risen = {
        bytes: account.risen.bytes + risen.bytes,
        entries: account.risen.entries + risen.entries,
      };
    }
  }

  function tick(): void {
    look();
    if (floor.isAbove(last)) {
      shortage = null;
    } else {
      const at = performance.now();
      shortage ??= { since: at, first: last, mark: { at, status: last }, searched: new Set() };
      if (!relieving) void relieve(shortage);
    }
    if (!quota.isLimited()) return;
    for (const entry of entries.values()) {
      const { account } = entry;
      if (account.counting !== null || entry.commands.size === 0) continue;
      const urgent = mayBeOver(account);
      const late = performance.now() - entry.countedAt > RECOUNT_MS;
      if ((urgent || late) && table.dueIn(account, urgent) <= 0) {
        void judge(entry).catch((cause: unknown) => log.warn("a namespace could not be counted", { cause }));
      }
    }
  }

  function mayBeOver(account: Account): boolean {
    const left = quota.left(account);
    return account.risen.bytes > Math.max(0, left.bytes) || account.risen.entries > Math.max(0, left.entries);
  }

  /** Counts the namespace, and stops its commands when it has more than it may. */
  async function judge(entry: Entry, what = "was stopped"): Promise<void> {
    const { account, before } = entry;
    entry.countedAt = performance.now();
    const left = quota.left(account);
    const has = amountOf(account);
    const most = {
      bytes: Math.max(before.bytes, has.bytes + left.bytes),
      entries: Math.max(before.entries, has.entries + left.entries),
    };
    if (!(await table.recountSoon(account, { most, urgent: true }))) return;
    const now = amountOf(account);
    if (now.bytes <= most.bytes && now.entries <= most.entries) return;
    const why = quota.excess(account, { bytes: 1, entries: 1 });
    if (why !== null) stop(entry, overQuota(what, why));
  }

  /** A short command is over before anybody looked. */
  async function judgeLast(entry: Entry): Promise<void> {
    const { account } = entry;
    await account.counting?.catch(() => {});
    if (mayBeOver(account)) await judge(entry, "has ended");
  }

  function stop(entry: Entry, why: Stop): void {
    for (const command of entry.commands) command.abort(why);
  }

  /** Below the floor: whoever writes is stopped, at first those who are seen to. */
  async function relieve(short: Shortage): Promise<void> {
    relieving = true;
    try {
      const found = await findWriters(short);
      for (const entry of found) stop(entry, diskFull());
      const at = performance.now();
      if (found.length === 0 && at - short.mark.at < STOP_ALL_AFTER_MS) return;
      if (found.length === 0 && hasFallen(short.mark.status, last)) stopAll();
      short.mark = { at, status: last };
    } catch (cause) {
      log.warn("nobody can tell who fills the disk: every command is stopped", { cause });
      stopAll();
    } finally {
      relieving = false;
    }
  }

  async function findWriters({ since, first, searched }: Shortage): Promise<Entry[]> {
    const dirty = await writers();
    const found = [...entries.values()].filter(({ account }) => (dirty.get(account.id) ?? 0) > WRITER_BYTES);
    // Small files take inodes, and hardly any bytes to be seen by.
    const inodes = first.availableBytes >= floor.bytes();
    if (!inodes && performance.now() - since < SEARCH_AFTER_MS) return found;
    const all = [...entries.values()];
    const grown = await Promise.all(all.map(async (entry) => hasGrown(entry, searched)));
    return [...found, ...all.filter((_, index) => grown[index])];
  }

  async function hasGrown(entry: Entry, searched: Set<Entry>): Promise<boolean> {
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
    for (const entry of entries.values()) stop(entry, diskFull());
  }

  function enter(account: Account): Entry {
    const known = entries.get(account.id);
    if (known !== undefined) return known;
    const has = amountOf(account);
    // Without limits nobody has counted a new one: it has what is known.
    const risen = account.risen.bytes === Infinity ? { bytes: 0, entries: 0 } : account.risen;
    const entry = {
      account,
      commands: new Set<AbortController>(),
      before: { bytes: has.bytes + risen.bytes, entries: has.entries + risen.entries },
      countedAt: performance.now(),
    };
    // Else what the disk lost while nothing ran would be this command's.
    if (entries.size === 0) last = floor.status();
    entries.set(account.id, entry);
    ticking ??= setInterval(tick, TICK_MS);
    return entry;
  }

  function leave(entry: Entry, command: AbortController): void {
    entry.commands.delete(command);
    table.end(entry.account);
    if (entry.commands.size > 0) return;
    entries.delete(entry.account.id);
    if (entries.size > 0) return;
    clearInterval(ticking);
    ticking = undefined;
    shortage = null;
  }

  return {
    /** Throws no_space when no command may begin. */
    check: () => floor.check(),

    /** Before the command is sent. */
    async begin(id: NamespaceId): Promise<Watched> {
      const account = await table.account(id);
      // New, or stopped when it had too much, and nobody knows how much.
      if (quota.isLimited()) await table.fathom(account);
      table.begin(account);
      const entry = enter(account);
      const command = new AbortController();
      entry.commands.add(command);
      let ended = false;
      return {
        stopped: command.signal,
        async end() {
          if (ended) return null;
          ended = true;
          try {
            look();
            if (!command.signal.aborted && quota.isLimited() && mayBeOver(account)) await judgeLast(entry);
          } catch (cause) {
            log.warn("a namespace could not be counted", { namespace: id, cause });
          } finally {
            leave(entry, command);
          }
          return command.signal.aborted ? (command.signal.reason as Stop) : null;
        },
      };
    },
  };
}

function hasFallen(before: FilesystemStatus, now: FilesystemStatus): boolean {
  const bytes = before.availableBytes - now.availableBytes;
  return bytes > STRAY.bytes || before.freeFiles - now.freeFiles > STRAY.entries;
}

function amountOf({ usage: { bytes, files, directories } }: Account): Amount {
  return { bytes, entries: files + directories };
}

function overQuota(what: string, why: string): Stop {
  const sentence = `The command ${what}: it wrote more than there is room for. ${why} What it wrote stays.`;
  return { ended: "over_quota", error: new AppError("no_space", sentence) };
}

function diskFull(): Stop {
  const sentence =
    "The command was stopped: the disk is nearly full. What it wrote stays; delete something and try again.";
  return { ended: "disk_full", error: new AppError("no_space", sentence) };
}

import type { NamespaceId } from "../ids.ts";
import type { Quota } from "./quota.ts";
import { amountOf, overQuota, stop, type Running, type Stop } from "./running.ts";
import { createRelief, type ReliefParts } from "./shortage.ts";
import type { Account } from "./usage-table.ts";

/** How often the disk is looked at while commands run: a few microseconds each time. */
const TICK_MS = 50;
/** What the disk does not show (holes, growth that hides behind another's deletion) is looked for this often. */
const RECOUNT_MS = 2000;
/** A command that runs. */
export interface Watched {
  /** Aborted when it has to be stopped. */
  readonly stopped: AbortSignal;
  /** It is over; null when all is well. */
  end(): Promise<Stop | null>;
}

interface Entry extends Running {
  countedAt: number;
}

export interface GrowthParts extends ReliefParts {
  readonly quota: Quota;
}

export type Growth = ReturnType<typeof createGrowth>;

/**
 * Stops commands that take their namespace over what it may have, or the disk below its floor. Nothing tells api what a
 * command writes, but a namespace can't grow by more than the disk shrinks: so only where that could pass a limit, its
 * files are counted.
 */
export function createGrowth(parts: GrowthParts) {
  const { table, quota, floor, log } = parts;
  const entries = new Map<NamespaceId, Entry>();
  let last = floor.status();
  let ticking: Timer | undefined;
  const relief = createRelief(parts, () => [...entries.values()]);

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
    relief.look(last);
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

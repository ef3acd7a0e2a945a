import { AppError } from "../errors.ts";
import type { NamespaceId, WorkspaceId } from "../ids.ts";
import type { UsageRows } from "./usage-rows.ts";
import type { Amount, Count, Usage } from "./usage.ts";

/** The share of one core's time that counting one namespace again and again may take. */
const COUNTING_SHARE = 0.05;
/** For one that grows while commands run in it, by more than it may as far as anybody can tell. */
const URGENT_SHARE = 0.25;
/** Of all namespaces together, for counts that nobody waits for. */
const BACKGROUND_SHARE = 0.1;
/** After a count that failed. */
const RETRY_MS = 1000;
/** From a command's end to the count that nobody waits for, since another command may follow. */
const SETTLED_MS = 500;
/** How long a call waits until its namespace may be counted. */
const SOON_MS = 250;
/** How long those who ask for a whole workspace wait for counts; then they get the last that is known. */
const SURVEY_MS = 2000;
/** Walks at once: they share the event loop with everybody's calls. */
const WALKS = 2;

/** A namespace, as it is known. What was promised to writes that are under way is apart, in `pending`. */
export interface Account {
  readonly id: NamespaceId;
  readonly workspace: Holdings;
  usage: Usage;
  pending: Amount;
  /** Whether `usage` is what there is: it is until a command runs. */
  counted: boolean;
  /**
   * What it may have more than is known: what the whole disk has lost since the last count began, while commands ran
   * here, since they can't have taken more. Infinite where nobody looked.
   */
  risen: Amount;
  /** Commands that run in it, and changes of the API's that are under way. */
  running: number;
  changing: number;
  /** Deletions whose files are being removed. */
  clearing: number;
  counting: Promise<void> | null;
  /** When it may be counted again, and how long that took. */
  dueAt: number;
  countMs: number;
  /** Bytes and entries that changed while it was being counted; whether they did. */
  meanwhile: Usage | null;
  stored: boolean;
  timer: Timer | undefined;
  /** The change of a name and the look at what it replaces, one at a time. */
  turn: Promise<unknown>;
}

/** A workspace: the sums over its namespaces. */
export interface Holdings {
  readonly id: WorkspaceId;
  readonly accounts: Map<NamespaceId, Account>;
  usage: Usage;
  pending: Amount;
}

export interface WorkspaceUsage {
  readonly total: Usage;
  readonly of: (id: NamespaceId) => Usage;
}

const NOTHING: Usage = { bytes: 0, files: 0, directories: 0 };
const NO_AMOUNT: Amount = { bytes: 0, entries: 0 };
const UNKNOWN: Amount = { bytes: Infinity, entries: Infinity };

interface Soon {
  readonly most?: Amount;
  readonly urgent?: boolean;
  readonly patienceMs?: number;
}

export interface UsageTableParts {
  readonly rows: UsageRows;
  /** Walks over a namespace's files, until there is more than `most`. */
  readonly count: (id: NamespaceId, most?: Amount) => Promise<Count>;
}

export type UsageTable = ReturnType<typeof createUsageTable>;

/**
 * What every namespace has: counted by a walk once, then kept up by what the API changes, counted again after commands,
 * and stored so that a restart counts only what changed in the last minute.
 */
export function createUsageTable({ rows, count }: UsageTableParts) {
  const workspaces = new Map<WorkspaceId, Promise<Holdings>>();
  const accounts = new Map<NamespaceId, Account>();
  const walks = { running: 0, waiting: [] as (() => void)[] };
  /** Due to be counted, and nobody waits for it. */
  const unhurried = new Set<Account>();
  let draining: Promise<void> | null = null;
  let closed = false;

  function enter(workspace: Holdings, id: NamespaceId, usage: Usage, counted: boolean): Account {
    const known = accounts.get(id);
    if (known !== undefined) return known;
    const account: Account = {
      id,
      workspace,
      usage,
      pending: NO_AMOUNT,
      counted,
      risen: counted ? NO_AMOUNT : UNKNOWN,
      running: 0,
      changing: 0,
      clearing: 0,
      counting: null,
      dueAt: 0,
      countMs: 0,
      meanwhile: null,
      stored: counted,
      timer: undefined,
      turn: Promise.resolve(),
    };
    accounts.set(id, account);
    workspace.accounts.set(id, account);
    workspace.usage = plus(workspace.usage, usage);
    return account;
  }

  async function load(id: WorkspaceId): Promise<Holdings> {
    const workspace: Holdings = { id, accounts: new Map(), usage: NOTHING, pending: NO_AMOUNT };
    for (const row of await rows.of(id)) {
      const account = enter(workspace, row.id, row.usage, row.counted);
      if (!account.counted) later(account);
    }
    return workspace;
  }

  function holdings(id: WorkspaceId): Promise<Holdings> {
    const known = workspaces.get(id);
    if (known !== undefined) return known;
    const loading = load(id);
    workspaces.set(id, loading);
    loading.catch(() => workspaces.delete(id));
    return loading;
  }

  function apply(account: Account, change: Usage): void {
    set(account, plus(account.usage, change));
    if (account.meanwhile !== null) account.meanwhile = plus(account.meanwhile, change);
  }

  function set(account: Account, usage: Usage): void {
    const { workspace } = account;
    if (accounts.get(account.id) !== account) return;
    const whole = {
      bytes: Math.max(0, usage.bytes),
      files: Math.max(0, usage.files),
      directories: Math.max(0, usage.directories),
    };
    workspace.usage = plus(workspace.usage, minus(whole, account.usage));
    account.usage = whole;
    account.stored = false;
  }

  async function walk(account: Account, most: Amount | undefined): Promise<Count> {
    if (walks.running >= WALKS) await new Promise<void>((resolve) => walks.waiting.push(resolve));
    else walks.running++;
    const before = performance.now();
    try {
      account.meanwhile = NOTHING;
      return await count(account.id, most);
    } finally {
      account.countMs = performance.now() - before;
      // The place goes to the next one.
      const next = walks.waiting.shift();
      if (next === undefined) walks.running--;
      else next();
    }
  }

  /** What changes while it walks may be counted twice, and so is counted again. Never less than there is. */
  async function recount(account: Account, most: Amount | undefined): Promise<void> {
    const busy = isBusy(account);
    account.risen = NO_AMOUNT;
    let pause = RETRY_MS;
    try {
      const counted = await walk(account, most);
      const meanwhile = account.meanwhile ?? NOTHING;
      set(account, plus(counted, meanwhile));
      if (!counted.whole) account.risen = UNKNOWN;
      pause = account.countMs / COUNTING_SHARE;
      account.counted =
        counted.whole && !busy && !isBusy(account) && Object.values(meanwhile).every((more) => more === 0);
    } finally {
      account.meanwhile = null;
      account.counting = null;
      account.dueAt = performance.now() + pause;
    }
    if (!account.counted) later(account);
  }

  function later(account: Account): void {
    if (closed || account.running > 0 || accounts.get(account.id) !== account) return;
    clearTimeout(account.timer);
    const wait = Math.max(SETTLED_MS, account.dueAt - performance.now());
    account.timer = setTimeout(() => {
      unhurried.add(account);
      draining ??= drain().finally(() => (draining = null));
    }, wait);
  }

  /** One after the other, with rests. */
  async function drain(): Promise<void> {
    for (const account of unhurried) {
      unhurried.delete(account);
      if (closed) return;
      if (account.running > 0 || account.counted || accounts.get(account.id) !== account) continue;
      // A failure is for the next who asks.
      await table.recount(account).catch(() => {});
      // It keeps no process from its end.
      await new Promise((resolve) => setTimeout(resolve, account.countMs / BACKGROUND_SHARE).unref());
    }
  }

  const table = {
    holdings,

    /** Throws AppError not_found for a namespace that is gone. */
    async account(id: NamespaceId): Promise<Account> {
      const known = accounts.get(id);
      if (known !== undefined) return known;
      const workspaceId = await rows.workspaceOf(id);
      if (workspaceId === null) throw new AppError("not_found", "The namespace was deleted.");
      const workspace = await holdings(workspaceId);
      const account = enter(workspace, id, NOTHING, false);
      // Made after its workspace was read.
      if (!account.counted) later(account);
      return account;
    },

    apply,

    /** Its files were changed by others than the API, all at once. */
    changed(id: NamespaceId): void {
      const account = accounts.get(id);
      if (account === undefined) return;
      account.counted = false;
      account.stored = false;
      account.risen = UNKNOWN;
      later(account);
    },

    /** Calls of the same count share it. */
    recount(account: Account, most?: Amount): Promise<void> {
      return (account.counting ??= recount(account, most));
    },

    /** In how many milliseconds a count is worth its time; at once when that is not above 0. */
    dueIn(account: Account, urgent = false): number {
      const early = urgent ? account.countMs / COUNTING_SHARE - account.countMs / URGENT_SHARE : 0;
      return account.dueAt - early - performance.now();
    },

    /** Waits for a count that is under way; else counts, where that is due soon. False when it is not. */
    async recountSoon(
      account: Account,
      { most, urgent = false, patienceMs = SOON_MS }: Soon = {},
    ): Promise<boolean> {
      if (account.counting !== null) {
        await account.counting;
        return true;
      }
      const wait = table.dueIn(account, urgent);
      if (wait > patienceMs) return false;
      if (wait > 0) await Bun.sleep(wait);
      await table.recount(account, most);
      return true;
    },

    /** Counts until it is known how much there may be at most. */
    async fathom(account: Account): Promise<void> {
      while (account.risen.bytes === Infinity) {
        await table.recountSoon(account, { urgent: true, patienceMs: Infinity });
      }
    },

    /** Counted anew where that is needed and due. */
    async refresh(account: Account, most?: Amount): Promise<void> {
      if (account.counting !== null) await account.counting;
      else if (!account.counted && table.dueIn(account) <= 0) await table.recount(account, most);
    },

    /** A workspace with its namespaces, counted anew where that is needed, due, and done in a moment. */
    async survey(id: WorkspaceId): Promise<WorkspaceUsage> {
      const workspace = await holdings(id);
      const refreshing = Promise.allSettled(
        [...workspace.accounts.values()].map((each) => table.refresh(each)),
      );
      const patience = Promise.withResolvers<void>();
      const timer = setTimeout(patience.resolve, SURVEY_MS);
      await Promise.race([refreshing, patience.promise]);
      clearTimeout(timer);
      return { total: workspace.usage, of: (each) => workspace.accounts.get(each)?.usage ?? NOTHING };
    },

    begin(account: Account): void {
      if (account.counted) account.risen = NO_AMOUNT;
      account.running++;
      account.counted = false;
      account.stored = false;
    },

    end(account: Account): void {
      account.running--;
      later(account);
    },

    /** Promises room, or takes a promise back. */
    promise(account: Account, { bytes, entries }: Amount): void {
      for (const holder of [account, account.workspace]) {
        holder.pending = {
          bytes: holder.pending.bytes + bytes,
          entries: holder.pending.entries + entries,
        };
      }
    },

    forget(id: NamespaceId): void {
      const account = accounts.get(id);
      if (account === undefined) return;
      clearTimeout(account.timer);
      set(account, NOTHING);
      accounts.delete(id);
      account.workspace.accounts.delete(id);
    },

    /** Stores what is known for sure, and not stored yet. */
    async flush(): Promise<void> {
      const fresh = [...accounts.values()].filter(
        (account) => account.counted && !account.stored && !isBusy(account),
      );
      for (const [workspace, some] of Map.groupBy(fresh, ({ workspace: { id } }) => id)) {
        for (const account of some) account.stored = true;
        await rows.store(
          workspace,
          some.map(({ id, usage }) => ({ id, usage })),
        );
      }
    },

    close(): void {
      closed = true;
      for (const { timer } of accounts.values()) clearTimeout(timer);
    },
  };
  return table;
}

function isBusy({ changing, running }: Account): boolean {
  return running > 0 || changing > 0;
}

function plus(a: Usage, b: Usage): Usage {
  return { bytes: a.bytes + b.bytes, files: a.files + b.files, directories: a.directories + b.directories };
}

function minus(a: Usage, b: Usage): Usage {
  return { bytes: a.bytes - b.bytes, files: a.files - b.files, directories: a.directories - b.directories };
}

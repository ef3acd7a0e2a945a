import type { Config } from "../config/schema.ts";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import type { Amount, Usage } from "./usage.ts";
import type { Account, UsageTable } from "./usage-table.ts";

const MIB = 1024 * 1024;

type Limits = Config["quota"];

/** What a change of the API's may still add, and what it has. */
export interface Room {
  /** Promises that so many bytes come to be added in all, or throws no_space. */
  reserve(bytes: number): Promise<void>;
  /** Tells what came or, below 0, went. */
  add(change: Partial<Usage>): void;
  /** Runs the change of a name together with the look at what stood there. */
  inTurn<T>(work: () => Promise<T>): Promise<T>;
  /** Runs the removal of what was moved out of the workspace. */
  clearing(work: () => Promise<void>): Promise<void>;
}

export type Quota = ReturnType<typeof createQuota>;

/** What namespaces and workspaces may have: writes that would pass it are refused, also when each alone would not. */
export function createQuota({
  table,
  limits,
}: {
  readonly table: UsageTable;
  readonly limits: () => Limits;
}) {
  /** Throws no_space when the account can't have so much more. Nobody is refused because of an old count. */
  async function promise(account: Account, more: Amount): Promise<void> {
    if (more.bytes <= 0 && more.entries <= 0) return;
    const { counted, risen } = account;
    const most = { bytes: more.bytes + risen.bytes, entries: more.entries + risen.entries };
    if (!counted && excess(account, most, limits()) !== null) await table.recountSoon(account);
    else if (excess(account, more, limits()) !== null && table.dueIn(account) <= 0)
      await table.recount(account);
    const why = excess(account, more, limits());
    if (why !== null) throw new AppError("no_space", why);
    table.promise(account, more);
  }

  return {
    /** Runs a change of a namespace's files that adds so many bytes and entries at most, or throws no_space before it. */
    async within<T>(id: NamespaceId, more: Amount, change: (room: Room) => Promise<T>): Promise<T> {
      const account = await table.account(id);
      await promise(account, more);
      account.changing++;
      let reserved = more.bytes;
      try {
        return await change({
          async reserve(bytes) {
            if (bytes <= reserved) return;
            await promise(account, { bytes: bytes - reserved, entries: 0 });
            reserved = bytes;
          },
          add: (change) => table.apply(account, { bytes: 0, files: 0, directories: 0, ...change }),
          async inTurn(work) {
            const before = account.turn;
            const mine = before.then(work);
            account.turn = mine.catch(() => {});
            const result = await mine;
            // It may have gone into a directory that is on its way out, and which of the two came first nobody knows.
            if (account.clearing > 0) table.changed(id);
            return result;
          },
          async clearing(work) {
            account.clearing++;
            try {
              await work();
            } catch (error) {
              table.changed(id);
              throw error;
            } finally {
              account.clearing--;
            }
          },
        });
      } finally {
        account.changing--;
        table.promise(account, { bytes: -reserved, entries: -more.entries });
      }
    },

    /** What the namespace may still grow by; Infinity without a limit. Below 0: it has too much already. */
    left(account: Account): Amount {
      const { namespace, workspace } = roomOf(account, limits());
      return {
        bytes: Math.min(namespace.bytes, workspace.bytes),
        entries: Math.min(namespace.entries, workspace.entries),
      };
    },

    /** Why it can't have so much more, as a sentence; null when it can. */
    excess: (account: Account, more: Amount) => excess(account, more, limits()),

    isLimited: () => isLimited(limits()),
  };
}

function isLimited(quota: Limits): boolean {
  const { namespace_mb, namespace_files, workspace_mb, workspace_files } = quota;
  return namespace_mb + namespace_files + workspace_mb + workspace_files > 0;
}

function leftOf(
  { usage, pending }: Pick<Account, "usage" | "pending">,
  mib: number,
  entries: number,
): Amount {
  return {
    bytes: (mib === 0 ? Infinity : mib * MIB) - usage.bytes - pending.bytes,
    entries: (entries === 0 ? Infinity : entries) - usage.files - usage.directories - pending.entries,
  };
}

function roomOf(account: Account, quota: Limits): Record<"namespace" | "workspace", Amount> {
  return {
    namespace: leftOf(account, quota.namespace_mb, quota.namespace_files),
    workspace: leftOf(account.workspace, quota.workspace_mb, quota.workspace_files),
  };
}

function excess(account: Account, more: Amount, quota: Limits): string | null {
  const room = roomOf(account, quota);
  for (const what of ["namespace", "workspace"] as const) {
    const left = room[what];
    if (more.bytes > Math.max(0, left.bytes)) {
      const mib = quota[`${what}_mb`];
      return `The ${what} would take more than the ${mib} MiB it may take ([quota] ${what}_mb); delete some of its files.`;
    }
    if (more.entries > Math.max(0, left.entries)) {
      const entries = quota[`${what}_files`];
      return `The ${what} would have more than the ${entries} files and directories it may have ([quota] ${what}_files); delete some.`;
    }
  }
  return null;
}

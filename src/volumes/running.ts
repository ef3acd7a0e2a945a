import { AppError } from "../errors.ts";
import type { Amount } from "./usage.ts";
import type { Account } from "./usage-table.ts";

/** Why a command had to be stopped. */
export interface Stop {
  readonly ended: "over_quota" | "disk_full";
  /** What its caller is told instead of a result. */
  readonly error: AppError;
}

/** A namespace in which commands run. */
export interface Running {
  readonly account: Account;
  readonly commands: Set<AbortController>;
  /** What it had at most when the first of them began: one that has too much already may keep it. */
  readonly before: Amount;
}

export function stop({ commands }: Running, why: Stop): void {
  for (const command of commands) command.abort(why);
}

export function amountOf({ usage: { bytes, files, directories } }: Account): Amount {
  return { bytes, entries: files + directories };
}

export function overQuota(what: string, why: string): Stop {
  const sentence = `The command ${what}: it wrote more than there is room for. ${why} What it wrote stays.`;
  return { ended: "over_quota", error: new AppError("no_space", sentence) };
}

export function diskFull(): Stop {
  const sentence =
    "The command was stopped: the disk is nearly full. What it wrote stays; delete something and try again.";
  return { ended: "disk_full", error: new AppError("no_space", sentence) };
}

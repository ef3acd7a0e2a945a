import { readFileSync } from "node:fs";
import { AppError } from "../errors.ts";

export interface User {
  readonly uid: number;
  readonly gid: number;
}

/** What files in a volume belong to, inside a sandbox and outside. */
export const TENANT: User = { uid: 10000, gid: 10000 };

export type RoleUserName = "cofferdam" | "cofferdam-gw";

/**
 * A role's user, made by install.sh. uid 0, or the tenants' own, would undo what the user is for, so they are refused.
 */
export function roleUser(name: RoleUserName, passwd = readFileSync("/etc/passwd", "utf8")): User {
  const fields = rows(passwd).find((fields) => fields[0] === name);
  if (fields === undefined) {
    throw new AppError(
      "unavailable",
      `The system user ${name} is missing; as root: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin ${name}`,
    );
  }
  const [uid, gid] = [Number(fields[2]), Number(fields[3])];
  const usable = (id: number) => Number.isInteger(id) && id > 0 && id !== TENANT.uid;
  if (!usable(uid) || !usable(gid)) {
    throw new AppError(
      "unavailable",
      `The system user ${name} has uid ${fields[2]} and gid ${fields[3]}; it must have ids of its own.`,
    );
  }
  return { uid, gid };
}

/**
 * Who runs this process, for the audit log: `alice`, or `root (sudo by alice)` when sudo says so. The environment's word
 * for it may be anything; what can't be a name is left out.
 */
export function localUser(
  sudoUser: string | undefined,
  uid = process.getuid?.() ?? 0,
  passwd = readFileSync("/etc/passwd", "utf8"),
): string {
  const name = rows(passwd).find((fields) => fields[2] === String(uid))?.[0] ?? "";
  const own = USER_NAME.test(name) ? name : `uid ${uid}`;
  return sudoUser !== undefined && USER_NAME.test(sudoUser) ? `${own} (sudo by ${sudoUser})` : own;
}

const USER_NAME = /^[A-Za-z0-9_.@\\-]{1,40}\$?$/;

function rows(passwd: string): string[][] {
  return passwd.split("\n").map((line) => line.split(":"));
}

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
  const fields = passwd
    .split("\n")
    .map((line) => line.split(":"))
    .find((fields) => fields[0] === name);
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

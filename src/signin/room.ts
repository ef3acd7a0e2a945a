import type { InStatement } from "@libsql/client/sqlite3";
import type { deviceLogins } from "../db/schema.ts";

/**
 * How starts, which need no key, are kept from filling the database or shutting others out. One address can hold so
 * many; when all places are taken, the newcomer gets that of the oldest from the busiest address of the busiest network,
 * so that a crowd displaces itself: who is alone in a network is the last to go. An approved one keeps its place.
 */
export const MAX_PER_SOURCE = 20;
export const MAX_IN_ALL = 2000;

type NewLogin = Pick<
  typeof deviceLogins.$inferSelect,
  "id" | "deviceHash" | "userHash" | "client" | "address" | "source" | "network" | "createdAt" | "expiresAt"
>;

export function removeExpired(now: number): InStatement {
  return { sql: "DELETE FROM device_logins WHERE expires_at <= ?", args: [now] };
}

/** For one more from `source`, if that may have one, when all places are taken. */
export function makeRoom(source: string, places: number): InStatement {
  return {
    sql: `DELETE FROM device_logins WHERE id = (
            SELECT id FROM device_logins
            WHERE state <> 'approved' AND source = (
              SELECT source FROM device_logins
              WHERE state <> 'approved' AND network = (
                SELECT network FROM device_logins WHERE state <> 'approved'
                GROUP BY network ORDER BY count(*) DESC, min(created_at) LIMIT 1)
              GROUP BY source ORDER BY count(*) DESC, min(created_at) LIMIT 1)
            ORDER BY created_at LIMIT 1)
          AND (SELECT count(*) FROM device_logins) >= ?
          AND (SELECT count(*) FROM device_logins WHERE source = ?) < ?`,
    args: [places, source, MAX_PER_SOURCE],
  };
}

/** Adds no row when the address holds its share. */
export function startStatement(login: NewLogin): InStatement {
  const { id, deviceHash, userHash, client, address, source, network, createdAt, expiresAt } = login;
  return {
    sql: `INSERT INTO device_logins
            (id, device_hash, user_hash, client, address, source, network, created_at, expires_at, state)
          SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending'
          WHERE (SELECT count(*) FROM device_logins WHERE source = ?) < ?`,
    args: [
      id,
      deviceHash,
      userHash,
      client,
      address,
      source,
      network,
      createdAt,
      expiresAt,
      source,
      MAX_PER_SOURCE,
    ],
  };
}

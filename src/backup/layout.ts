import type { BackupId } from "../ids.ts";

/*
 * What lies in a target, a directory or a bucket's prefix:
 *
 *   marker                             says in the clear what this is, and of which appliance
 *   lock                               who works on it at the moment
 *   NAMESPACE/blobs/XX/BLOB            as in the appliance's own store, sealed under the namespace's key
 *   backups/ID/database/N              a copy of the database in pieces
 *   backups/ID/blobs/N                 the list of the blobs that it needs, with their sizes
 *   backups/ID/config                  config.toml
 *   backups/ID/gateway                 the gateway's key, as the appliance keeps it
 *   backups/ID/keyring                 the appliance's secret, under the master key
 *   backups/ID/secret.age              the same, under a passphrase or for a recipient
 *   backups/ID/index                   written last: a backup exists when this does
 *
 * All but the marker, the lock and the two forms of the secret are sealed under that secret, each object bound to its
 * key: another in its place is found out.
 */
export const MARKER = "marker";
export const LOCK = "lock";
export const BACKUPS = "backups/";
/** What the keys of all namespaces' blobs begin with. */
export const NAMESPACES = "ns-";

export interface BackupKeys {
  readonly all: string;
  readonly database: string;
  readonly blobs: string;
  readonly config: string;
  readonly gateway: string;
  readonly keyring: string;
  readonly secret: string;
  readonly index: string;
}

export function keysOf(id: BackupId): BackupKeys {
  const all = `${BACKUPS}${id}/`;
  return {
    all,
    database: `${all}database`,
    blobs: `${all}blobs`,
    config: `${all}config`,
    gateway: `${all}gateway`,
    keyring: `${all}keyring`,
    secret: `${all}secret.age`,
    index: `${all}index`,
  };
}

/** The key of a piece of something that is kept in several. */
export function pieceKey(prefix: string, index: number): string {
  return `${prefix}/${String(index).padStart(8, "0")}`;
}

/** When a backup was begun, by its id. */
export function timeOf(id: BackupId): number {
  const [, year, month, day, hours, minutes, seconds, ms] =
    /^backup-(\d{4})(\d\d)(\d\d)t(\d\d)(\d\d)(\d\d)(\d{3})z/.exec(id) ?? [];
  return Date.parse(`${year}-${month}-${day}T${hours}:${minutes}:${seconds}.${ms}Z`);
}

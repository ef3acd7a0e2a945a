import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { and, eq, inArray, isNull } from "drizzle-orm";
import type { Origin } from "../audit/event.ts";
import { openLedger } from "../audit/ledger.ts";
import type { Statement } from "../audit/transaction.ts";
import { createLocalStore } from "../blobs/local.ts";
import { blobKey, blobPrefix, createSealedBlobs, type SealedBlobs } from "../blobs/sealed.ts";
import type { BlobStore } from "../blobs/store.ts";
import { openDatabase, type Database } from "../db/open.ts";
import { deviceLogins, namespaces, restores, snapshots, webhooks } from "../db/schema.ts";
import { migrations } from "../db/migrations.ts";
import { AppError } from "../errors.ts";
import type { BackupId, NamespaceId } from "../ids.ts";
import { instanceLayout, type Instance } from "../instance/instance.ts";
import { replaceFile } from "../kernel/durable.ts";
import { statfs } from "../kernel/statfs.ts";
import { syncFileSystem } from "../kernel/syncfs.ts";
import type { User } from "../kernel/users.ts";
import { keyringText } from "../instance/keyring.ts";
import { unwrapKey } from "../keys/namespace-keys.ts";
import type { Log } from "../log.ts";
import { openState } from "../instance/state.ts";
import { createSecrets } from "../secrets.ts";
import { createFlow } from "../snapshots/flow.ts";
import { getIndex, type BackupIndex } from "./index.ts";
import { keysOf } from "./layout.ts";
import { listedBlobs } from "./list.ts";
import { createObjects } from "./objects.ts";
import { placeRestored, restoredText, stagingOf } from "../instance/restored.ts";
import type { Progress } from "./source.ts";
import { fetchDatabase } from "./verify.ts";

const AT_ONCE = 8;

export interface RestoreParts {
  readonly store: BlobStore;
  readonly id: BackupId;
  /** The secret of the appliance that the backup is of. */
  readonly secret: Uint8Array;
  /** Empty, stopped, and kept so meanwhile. */
  readonly instance: Instance;
  /** This instance's own, which is to wrap the secret from now on. */
  readonly masterKey: Uint8Array;
  readonly api: User;
  /** For a trial: nothing is sent to the endpoints that the original serves. */
  readonly disableWebhooks: boolean;
  readonly origin: Origin;
  readonly log: Log;
  readonly progress: Progress;
  /** Milliseconds since 1970. */
  readonly now: number;
}

/**
 * Puts the appliance of a backup together beside the empty one, and moves it into its place last. Killed anywhere, it
 * goes on when it is called again; up to its last step the appliance is as it was.
 */
export async function restoreBackup(parts: RestoreParts): Promise<BackupIndex> {
  const { store, id, secret, instance, masterKey, api, progress } = parts;
  const staging = stagingOf(instance.data);
  const secrets = createSecrets(secret);
  const objects = createObjects({ store, secrets });
  const index = await getIndex(objects, id);
  if (index.database.version > migrations.length) {
    throw new AppError(
      "invalid",
      `${id} is of a newer Cofferdam (${index.program}); install that one, or a newer one, here first.`,
    );
  }
  beginStaging(instance, id);
  if (!existsSync(staging.api)) checkRoom(staging.dir, index);

  const layout = instanceLayout(staging.dir, instance.inst);
  mkdirSync(staging.api, { recursive: true, mode: 0o700 });
  chownSync(staging.api, api.uid, api.gid);
  await openState(layout, secret);
  progress("bytes of the database", 0, index.database.content.bytes);
  removeDatabase(layout.api.database);
  await fetchDatabase(objects, index, layout.api.database);
  const db = await openDatabase(layout.api.database);
  try {
    if (index.blobs !== null) await fetchBlobs(parts, index, { db, dir: layout.api.blobs, secrets });
    await adapt(parts, index, { db, secrets });
  } finally {
    db.close();
  }
  if (index.config) {
    replaceFile(staging.config, await objects.get(keysOf(id).config), { mode: 0o644 });
  }
  if (index.gateway) {
    replaceFile(staging.gatewayKey, await objects.get(keysOf(id).gateway), { mode: 0o600 });
  }
  replaceFile(staging.keyring, keyringText(secret, [masterKey]), { mode: 0o640, gid: api.gid });
  await giveTo(staging.api, api);
  await flush(staging.dir);
  replaceFile(staging.ready, restoredText(id, parts.disableWebhooks), { mode: 0o600 });
  placeRestored(instance.data);
  return index;
}

/** What an earlier call left of another backup goes; of the same, it is gone on with. */
function beginStaging({ data }: Instance, id: BackupId): void {
  const { dir } = stagingOf(data);
  const named = join(dir, "backup");
  const text = existsSync(named) ? readFileSync(named, "utf8").trim() : null;
  if (text !== id) rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  replaceFile(named, `${id}\n`, { mode: 0o600 });
}

/** Told before anything is fetched, which may take hours. The files themselves come on top, later. */
function checkRoom(dir: string, { id, database, blobs }: BackupIndex): void {
  const needed = 2 * database.content.bytes + (blobs?.bytes ?? 0);
  const free = statfs(dir).availableBytes;
  if (free >= needed) return;
  throw new AppError(
    "no_space",
    `${id} takes ${toMib(needed)} MiB of free disk, and there are ${toMib(free)} for ${dir}; free some and try again. Nothing was changed.`,
  );
}

const toMib = (bytes: number): number => Math.ceil(bytes / (1024 * 1024));

function removeDatabase(file: string): void {
  for (const suffix of ["", "-wal", "-shm"]) rmSync(`${file}${suffix}`, { force: true });
}

interface Staged {
  readonly db: Database;
  readonly secrets: ReturnType<typeof createSecrets>;
}

/** Each is opened before it counts, so that what can't be read is found now and not by a tenant. */
async function fetchBlobs(
  { store, progress }: RestoreParts,
  { id, blobs }: BackupIndex,
  { db, secrets, dir }: Staged & { readonly dir: string },
): Promise<void> {
  if (blobs === null) return;
  const local = createLocalStore(dir);
  await local.sweep();
  const objects = createObjects({ store, secrets });
  const there = new Set<string>();
  const known = new Map<NamespaceId, SealedBlobs>();
  let done = 0;

  async function sealedOf(namespace: NamespaceId): Promise<SealedBlobs> {
    const found = known.get(namespace);
    if (found !== undefined) return found;
    const [row] = await db
      .select({ wrappedKey: namespaces.wrappedKey })
      .from(namespaces)
      .where(eq(namespaces.id, namespace));
    if (row?.wrappedKey == null)
      throw new AppError("internal", `The backup has blobs of ${namespace}, but not its key.`);
    const key = unwrapKey(secrets, row.wrappedKey, namespace);
    const sealed = createSealedBlobs({ store, namespace, key });
    known.clear();
    known.set(namespace, sealed);
    for await (const { key: blob } of local.list(blobPrefix(namespace))) there.add(blob);
    return sealed;
  }

  const flow = createFlow(AT_ONCE);
  for await (const { namespace, blob } of listedBlobs(objects.getAll(keysOf(id).blobs, blobs.list))) {
    const key = blobKey(namespace, blob);
    const sealed = await sealedOf(namespace);
    progress("blobs", done++, blobs.count);
    if (there.delete(key)) continue;
    await flow.start(async () => {
      const bytes = await store.get(key);
      if (bytes === null) throw new AppError("internal", `The backup's object ${key} is missing.`);
      await sealed.open(blob, bytes).catch((cause: unknown) => {
        throw new AppError("internal", `The backup's object ${key} is damaged.`, { cause });
      });
      await local.put(key, bytes);
    });
  }
  await flow.end();
}

/** Makes of the copy what this appliance begins with, and puts into its audit log that it was restored. */
async function adapt(parts: RestoreParts, index: BackupIndex, { db, secrets }: Staged): Promise<void> {
  const { disableWebhooks, origin, log, now } = parts;
  const { gone } = index;
  const captured =
    index.blobs === null
      ? []
      : await db
          .select({ namespaceId: snapshots.namespaceId, snapshotId: snapshots.id })
          .from(snapshots)
          .innerJoin(namespaces, eq(namespaces.id, snapshots.namespaceId))
          .where(and(eq(snapshots.kind, "backup"), isNull(namespaces.deletingAt)));
  const statements: Statement[] = [
    ...captured
      .filter(({ namespaceId }) => !gone.includes(namespaceId))
      .map((row) =>
        db.insert(restores).values(row).onConflictDoUpdate({ target: restores.namespaceId, set: row }),
      ),
    // Its deletion had begun while the backup was made: the next start ends it.
    db.update(namespaces).set({ deletingAt: now, wrappedKey: null }).where(inArray(namespaces.id, gone)),
    // The files are from a little before the database, or in the bucket from later: they are counted anew.
    db.update(namespaces).set({ usageAt: null }),
    // The files are made of the backup, on the disk: no bucket has to have them.
    ...(index.blobs === null ? [] : [db.update(namespaces).set({ claimedEpoch: 0 })]),
    // Whoever waits for one of them waits elsewhere.
    db.delete(deviceLogins),
  ];
  if (disableWebhooks) {
    statements.push(
      db
        .update(webhooks)
        .set({ state: "disabled", disabledReason: "restored from a backup" })
        .where(eq(webhooks.state, "enabled")),
    );
  }
  const ledger = await openLedger({ db, secrets, log });
  try {
    await ledger.change(async () => ({
      statements,
      events: [
        {
          chain: "appliance",
          type: "backup.restored",
          namespace: null,
          data: {
            backup_id: index.id,
            taken_at: new Date(index.created).toISOString(),
            namespaces: index.namespaces,
            deleted_meanwhile: gone,
            webhooks_disabled: disableWebhooks,
          },
          origin,
        },
      ],
      result: null,
    }));
  } finally {
    await ledger.close();
  }
}

/** Nobody but root gets to the directory above meanwhile. */
async function giveTo(dir: string, user: User): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) await giveTo(path, user);
    else chownSync(path, user.uid, user.gid);
  }
  chownSync(dir, user.uid, user.gid);
  chmodSync(dir, 0o700);
}

async function flush(dir: string): Promise<void> {
  const directory = await open(dir, "r");
  try {
    await syncFileSystem(directory.fd);
  } finally {
    await directory.close();
  }
}

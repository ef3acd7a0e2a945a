import { join } from "node:path";
import { mkdtemp, open, rm } from "node:fs/promises";
import { asc, eq, isNull } from "drizzle-orm";
import { auditKeys } from "../audit/keys.ts";
import { verifyAudit } from "../audit/verify.ts";
import { createSealedBlobs, type BlobId, type SealedBlobs } from "../blobs/sealed.ts";
import type { BlobStore } from "../blobs/store.ts";
import { openDatabase, type Database } from "../db/open.ts";
import { namespaces as table, snapshots } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import type { BackupId, NamespaceId } from "../ids.ts";
import { unwrapKey } from "../keys/namespace-keys.ts";
import type { Secrets } from "../secrets.ts";
import { createFlow } from "../snapshots/flow.ts";
import { manifestRef } from "../snapshots/manifest.ts";
import { getIndex, type BackupIndex } from "./index.ts";
import { keysOf } from "./layout.ts";
import { listedBlobs } from "./list.ts";
import { blobsOf } from "./needs.ts";
import { createObjects, type Objects } from "./objects.ts";
import type { Progress } from "./source.ts";

const AT_ONCE = 8;

export interface VerifyParts {
  readonly store: BlobStore;
  readonly secrets: Secrets;
  /** A directory for the copy of the database while it is looked at: what is in there is in the clear. */
  readonly scratch: string;
  readonly progress: Progress;
}

export interface Fault {
  /** The object's key in the target, or what else is wrong. */
  readonly object: string;
  readonly reason: string;
}

export interface VerifiedBackup {
  readonly id: BackupId;
  readonly ok: boolean;
  readonly blobs: number;
  readonly bytes: number;
  readonly events: number;
  readonly faults: readonly Fault[];
}

/** Reads all that a restore would, and proves it. Blobs that several backups share are read once. */
export function createVerifier({ store, secrets, scratch, progress }: VerifyParts) {
  const objects = createObjects({ store, secrets });
  /** Those that were found well, and how many bytes each has. */
  const sound = new Map<string, number>();

  async function verify(id: BackupId): Promise<VerifiedBackup> {
    const faults: Fault[] = [];
    const counts = { blobs: 0, bytes: 0, events: 0 };
    const index = await attempt(faults, keysOf(id).index, async () => getIndex(objects, id));
    if (index !== null) {
      await verifyRest(index, faults);
      for (const { namespace, reason } of index.missed) {
        faults.push({ object: `the files of ${namespace}`, reason: `they could not be captured: ${reason}` });
      }
      await withDatabase({ objects, scratch }, index, async (db) => {
        counts.events = await verifyDatabase(db, faults);
        if (index.blobs !== null) Object.assign(counts, await verifyBlobs(db, index, faults));
      }).catch(
        (error: unknown) => void faults.push({ object: keysOf(id).database, reason: reasonOf(error) }),
      );
    }
    return { id, ok: faults.length === 0, ...counts, faults };
  }

  async function verifyRest(
    { id, config, gateway, keyring, secret }: BackupIndex,
    faults: Fault[],
  ): Promise<void> {
    const keys = keysOf(id);
    if (config) await attempt(faults, keys.config, async () => objects.get(keys.config));
    if (gateway) await attempt(faults, keys.gateway, async () => objects.get(keys.gateway));
    await verifyPlain(keys.keyring, keyring, faults);
    if (secret !== null) await verifyPlain(keys.secret, secret, faults);
  }

  async function verifyPlain(key: string, expected: string, faults: Fault[]): Promise<void> {
    const bytes = await store.get(key);
    if (bytes === null) faults.push({ object: key, reason: "it is missing" });
    else if (sha256(bytes) !== expected) faults.push({ object: key, reason: "it is not what was stored" });
  }

  async function verifyDatabase(db: Database, faults: Fault[]): Promise<number> {
    for (const reason of await db.faults()) faults.push({ object: "the database", reason });
    const audit = await verifyAudit({ db, ...auditKeys(secrets) });
    for (const { workspace_id, first_bad } of audit.workspaces) {
      if (first_bad === null) continue;
      faults.push({ object: `the events of ${workspace_id}`, reason: first_bad.reason });
    }
    return audit.workspaces.reduce((sum, { events }) => sum + events, 0);
  }

  async function verifyBlobs(db: Database, index: BackupIndex, faults: Fault[]) {
    const listed = await listOf(index, faults);
    const counts = { blobs: 0, bytes: 0 };
    const rows = await db
      .select({ id: table.id, wrappedKey: table.wrappedKey })
      .from(table)
      .where(isNull(table.deletingAt))
      .orderBy(asc(table.id));
    let done = 0;
    for (const { id, wrappedKey } of rows) {
      progress("namespaces", done++, rows.length);
      if (wrappedKey === null || index.gone.includes(id)) continue;
      const blobs = createSealedBlobs({ store, namespace: id, key: unwrapKey(secrets, wrappedKey, id) });
      const manifests = await db
        .select({ manifest: snapshots.manifest })
        .from(snapshots)
        .where(eq(snapshots.namespaceId, id));
      const needed = await blobsOf(
        blobs,
        manifests.map(({ manifest }) => manifestRef.parse(manifest)),
      );
      const flow = createFlow(AT_ONCE);
      for (const blob of needed) {
        await flow.start(async () => {
          const bytes = await verifyBlob(blobs, blob, faults);
          if (bytes === null) return;
          counts.blobs += 1;
          counts.bytes += bytes;
          if (listed.get(id)?.delete(blob) !== true) {
            faults.push({
              object: keysOf(index.id).blobs,
              reason: `it lacks ${blob}, which a prune would remove`,
            });
          }
        });
      }
      await flow.end();
    }
    return counts;
  }

  async function verifyBlob(blobs: SealedBlobs, blob: BlobId, faults: Fault[]): Promise<number | null> {
    const key = blobs.keyOf(blob);
    const known = sound.get(key);
    if (known !== undefined) return known;
    const sealed = await store.get(key);
    if (sealed === null) {
      faults.push({ object: key, reason: "it is missing" });
      return null;
    }
    try {
      await blobs.open(blob, sealed);
    } catch {
      faults.push({ object: key, reason: "it is not what was stored" });
      return null;
    }
    sound.set(key, sealed.length);
    return sealed.length;
  }

  async function listOf({ id, blobs }: BackupIndex, faults: Fault[]) {
    const listed = new Map<NamespaceId, Set<BlobId>>();
    if (blobs === null) return listed;
    await attempt(faults, keysOf(id).blobs, async () => {
      for await (const { namespace, blob } of listedBlobs(objects.getAll(keysOf(id).blobs, blobs.list))) {
        const known = listed.get(namespace) ?? new Set();
        listed.set(namespace, known.add(blob));
      }
    });
    return listed;
  }

  return { verify };
}

interface CopyParts {
  readonly objects: Pick<Objects, "getAll">;
  readonly scratch: string;
}

/** Writes the backup's copy of the database to a new file. */
export async function fetchDatabase(
  objects: Pick<Objects, "getAll">,
  { id, database }: BackupIndex,
  to: string,
): Promise<void> {
  const file = await open(to, "w", 0o600);
  try {
    for await (const bytes of objects.getAll(keysOf(id).database, database.content)) {
      await file.writeFile(bytes);
    }
    await file.datasync();
  } finally {
    await file.close();
  }
}

/** Brought to this program's version, so that one of an older program can be read. */
async function withDatabase(
  { objects, scratch }: CopyParts,
  index: BackupIndex,
  work: (db: Database) => Promise<void>,
): Promise<void> {
  const dir = await mkdtemp(join(scratch, "database-"));
  const file = join(dir, "cofferdam.db");
  try {
    await fetchDatabase(objects, index, file);
    const db = await openDatabase(file);
    try {
      await work(db);
    } finally {
      db.close();
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function attempt<T>(faults: Fault[], object: string, work: () => Promise<T>): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    faults.push({ object, reason: reasonOf(error) });
    return null;
  }
}

function reasonOf(error: unknown): string {
  if (error instanceof AppError) return error.message;
  return error instanceof Error ? error.message : String(error);
}

function sha256(bytes: Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
}

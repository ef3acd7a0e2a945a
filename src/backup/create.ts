import { blobPrefix, createSealedBlobs, type BlobId, type SealedBlobs } from "../blobs/sealed.ts";
import type { BlobStore } from "../blobs/store.ts";
import { AppError } from "../errors.ts";
import { backupId, type NamespaceId } from "../ids.ts";
import { unwrapKey } from "../keys/namespace-keys.ts";
import type { Secrets } from "../secrets.ts";
import { createFlow } from "../snapshots/flow.ts";
import { buildInfo } from "../version.ts";
import { sealFor, type Recipient } from "./access.ts";
import { getIndex, putIndex, type BackupIndex } from "./index.ts";
import { keysOf } from "./layout.ts";
import { listLine, type ListedBlob } from "./list.ts";
import type { TargetLock } from "./lock.ts";
import { blobsOf } from "./needs.ts";
import { createObjects } from "./objects.ts";
import type { Capture, Progress, SourceNamespace } from "./source.ts";

const AT_ONCE = 8;

export interface CreateParts {
  readonly capture: Capture;
  /** Where it goes, claimed and locked. */
  readonly store: BlobStore;
  readonly lock: Pick<TargetLock, "check">;
  /** The appliance's. */
  readonly secrets: Secrets;
  readonly applianceSecret: Uint8Array;
  /** The file in which the master key wraps the secret. */
  readonly keyring: Uint8Array;
  /** The gateway's key, sealed as its file is; null where there is none. */
  readonly gatewayKey: Uint8Array | null;
  readonly recipient: Recipient | null;
  readonly config: Uint8Array | null;
  readonly includeBlobs: boolean;
  readonly progress: Progress;
  /** Milliseconds since 1970. */
  readonly now: number;
}

/** Copies what the target lacks, and makes it a backup by its last write. */
export async function createBackup(parts: CreateParts): Promise<BackupIndex> {
  const { capture, store, lock, secrets, recipient, config, keyring, gatewayKey, progress, now } = parts;
  const id = backupId.make(now);
  const keys = keysOf(id);
  const objects = createObjects({ store, secrets });

  const copied = parts.includeBlobs ? await copyBlobs(parts) : nothing();
  const list = await objects.putAll(keys.blobs, linesOf(copied.blobs));
  progress("bytes of the database", 0, capture.databaseBytes);
  const content = await objects.putAll(
    keys.database,
    counted(capture.database(), (bytes) => progress("bytes of the database", bytes, capture.databaseBytes)),
  );
  if (config !== null) await objects.put(keys.config, config);
  if (gatewayKey !== null) await objects.put(keys.gateway, gatewayKey);
  await store.put(keys.keyring, keyring);
  const secret = recipient === null ? null : await sealFor(recipient, parts.applianceSecret);
  if (secret !== null) await store.put(keys.secret, secret);

  // While it was not ours, somebody may have removed blobs that were found to be there.
  await lock.check();
  await putIndex(objects, {
    format: "cofferdam backup 1",
    id,
    created: now,
    program: buildInfo.version,
    database: { version: capture.databaseVersion, content },
    config: config !== null,
    gateway: gatewayKey !== null,
    access: recipient === null ? "master key" : "passphrase" in recipient ? "passphrase" : "recipient",
    keyring: sha256(keyring),
    secret: secret === null ? null : sha256(secret),
    namespaces: capture.namespaceCount,
    blobs: parts.includeBlobs ? { list, ...copied.counts } : null,
    gone: copied.gone,
    missed: [...capture.missed],
    lacking: copied.lacking,
  });
  return getIndex(objects, id);
}

interface Copied {
  readonly blobs: ListedBlob[];
  readonly gone: NamespaceId[];
  readonly lacking: { namespace: NamespaceId; blob: BlobId }[];
  readonly counts: { count: number; bytes: number; addedCount: number; addedBytes: number };
}

function nothing(): Copied {
  return { blobs: [], gone: [], lacking: [], counts: { count: 0, bytes: 0, addedCount: 0, addedBytes: 0 } };
}

async function copyBlobs({ capture, store, secrets, progress }: CreateParts): Promise<Copied> {
  const copied = nothing();
  let done = 0;
  for await (const namespace of capture.namespaces()) {
    progress("namespaces", done++, capture.namespaceCount);
    if (namespace.wrappedKey === null || namespace.manifests.length === 0) continue;
    const key = unwrapKey(secrets, namespace.wrappedKey, namespace.id);
    // Read where they are, and opened before they are copied: what is damaged already is told now.
    const blobs = createSealedBlobs({ namespace: namespace.id, key, store: readOnly(capture) });
    const part = await copyNamespace({ namespace, blobs, store, capture });
    if (part.lacking.length > 0 && !(await capture.exists(namespace.id))) {
      copied.gone.push(namespace.id);
      continue;
    }
    copied.lacking.push(...part.lacking);
    for (const blob of part.blobs) copied.blobs.push(blob);
    for (const name of ["count", "bytes", "addedCount", "addedBytes"] as const) {
      copied.counts[name] += part.counts[name];
    }
  }
  return copied;
}

function readOnly({ blob }: Pick<Capture, "blob">): Pick<BlobStore, "put" | "get"> {
  return {
    get: blob,
    put: async () => {
      throw new Error("an appliance's blobs are its own");
    },
  };
}

interface NamespaceCopy {
  readonly namespace: SourceNamespace;
  readonly blobs: SealedBlobs;
  readonly store: BlobStore;
  readonly capture: Pick<Capture, "blob">;
}

async function copyNamespace({ namespace, blobs, store, capture }: NamespaceCopy): Promise<Copied> {
  const { id } = namespace;
  const { counts, blobs: listed, ...copied } = nothing();
  const needed = await blobsOf(blobs, namespace.manifests);
  const there = new Map<string, number>();
  for await (const { key, sizeBytes } of store.list(blobPrefix(id))) there.set(key, sizeBytes);

  async function copy(blob: BlobId, key: string): Promise<number | null> {
    const sealed = await capture.blob(key);
    if (sealed === null) return null;
    try {
      await blobs.open(blob, sealed);
    } catch {
      return null;
    }
    await store.put(key, sealed);
    counts.addedCount += 1;
    counts.addedBytes += sealed.length;
    return sealed.length;
  }

  const flow = createFlow(AT_ONCE);
  for (const blob of needed) {
    await flow.start(async () => {
      const key = blobs.keyOf(blob);
      const bytes = there.get(key) ?? (await copy(blob, key));
      if (bytes === null) {
        copied.lacking.push({ namespace: id, blob });
        return;
      }
      counts.count += 1;
      counts.bytes += bytes;
      listed.push({ namespace: id, blob, bytes });
    });
  }
  await flow.end();
  return { ...copied, blobs: listed, counts };
}

async function* linesOf(blobs: readonly ListedBlob[]): AsyncGenerator<Uint8Array, void> {
  const AT_A_TIME = 10_000;
  for (let at = 0; at < blobs.length; at += AT_A_TIME) {
    yield Buffer.from(
      blobs
        .slice(at, at + AT_A_TIME)
        .map(listLine)
        .join(""),
    );
  }
}

async function* counted(
  content: AsyncIterable<Uint8Array>,
  tell: (bytes: number) => void,
): AsyncGenerator<Uint8Array, void> {
  let total = 0;
  for await (const bytes of content) {
    yield bytes;
    total += bytes.length;
    tell(total);
  }
  if (total === 0) throw new AppError("internal", "The copy of the database was empty.");
}

function sha256(bytes: Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
}

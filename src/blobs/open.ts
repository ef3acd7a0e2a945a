import { bucketOf } from "../config/bucket.ts";
import type { Config } from "../config/schema.ts";
import type { Log } from "../log.ts";
import type { Check } from "../protocol/sandboxd.ts";
import { adoptBlobs } from "./adopt.ts";
import { createLocalStore } from "./local.ts";
import { createClient } from "./s3/client.ts";
import { reachBucket, probeBucket } from "./s3/probe.ts";
import { findCredentials, type CredentialPlaces } from "./s3/published.ts";
import { createS3Store } from "./s3/store.ts";
import type { BlobStore } from "./store.ts";

export interface OpenStoreParts {
  readonly storage: Config["storage"];
  /** Of the local store. */
  readonly dir: string;
  /** Throws no_space where its disk has no room for so many bytes. */
  readonly checkRoom: (bytes: number) => void;
  readonly credentials: CredentialPlaces;
  /** It takes longer than usual, but not longer than so from now on. */
  readonly onSlowStart: (forMs: number) => void;
  readonly log: Log;
}

export interface OpenedStore {
  readonly store: BlobStore;
  /** Takes new credentials; throws a sentence when they are wrong, and those before stay. */
  reload(): void;
  /** Throws a sentence, for the operator, when it can't be used now. Cheap. */
  look(): Promise<void>;
  /** What `doctor` says of it, after a thorough look. */
  check(): Promise<Check>;
}

const GLANCE_MS = 3_000;
/** Asked for again before it is over. */
const ADOPTING_MS = 120_000;

/**
 * The store that the configuration names. With a bucket, it is tried first, and a sentence thrown unless it answers and
 * does all that we rely on; then what lies on the disk from before there was one is moved there.
 */
export async function openStore({
  storage,
  dir,
  checkRoom,
  credentials,
  onSlowStart,
  log,
}: OpenStoreParts): Promise<OpenedStore> {
  const bucket = bucketOf(storage);
  if (bucket === null) {
    const store = createLocalStore(dir, checkRoom);
    await store.sweep();
    const check: Check = { name: "store", status: "ok", detail: "on the local disk", fix: null };
    return { store, reload() {}, look: async () => {}, check: async () => check };
  }
  const keys = { current: findCredentials(credentials) };
  const client = createClient({ bucket, credentials: () => keys.current });
  const store = createS3Store(client, log);
  await probeBucket(client, store);
  const from = createLocalStore(dir);
  await from.sweep();
  await adoptBlobs({ from, to: store, onProgress: () => onSlowStart(ADOPTING_MS), log });
  // Who asks how it is wants to hear soon.
  const glance = createClient({ bucket, credentials: () => keys.current, patienceMs: GLANCE_MS });
  return {
    store,
    reload: () => void (keys.current = findCredentials(credentials)),
    look: async () => reachBucket(glance),
    async check() {
      try {
        await probeBucket(glance, createS3Store(glance, log));
        const detail = `bucket ${bucket.name} at ${bucket.endpoint} takes, gives back, and refuses what it should`;
        return { name: "store", status: "ok", detail, fix: null };
      } catch (error) {
        const detail = error instanceof Error ? error.message : String(error);
        return { name: "store", status: "fail", detail, fix: "docs/s3.md says what to do." };
      }
    },
  };
}

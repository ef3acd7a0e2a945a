import { randomBytes } from "node:crypto";
import { StaleVersion, type BlobStore } from "../store.ts";
import type { Client } from "./client.ts";
import { BucketFailure, failureOf, forOperator } from "./failure.ts";

/** A clock that is further off than this is wrong, even where the server would still take our signatures (15 min). */
const MAX_SKEW_MS = 5 * 60_000;
/** In the bucket, besides the namespaces'. */
const PROBES = "probe/";
/** What an interrupted probe left is another's that runs now, if it is younger. */
const LEFT_AFTER_MS = 60 * 60_000;

/** Whether the bucket answers now, and takes our signature. Throws a sentence for the operator. */
export async function reachBucket(client: Client): Promise<void> {
  await forTheOperator(async () => {
    const { bucket } = client;
    const query = { "list-type": "2", prefix: bucket.prefix + PROBES, "max-keys": "1" };
    const answer = await client.send({ method: "GET", key: "", query });
    if (answer.status !== 200) throw failureOf(answer, bucket.name);
    checkClock(answer.headers.get("date"), bucket.name);
  });
}

/**
 * Whether it is a store that nothing can be lost in: it takes, gives back, lists and deletes, and it refuses a conditional
 * PUT whose condition does not hold. Throws a sentence for the operator.
 */
export async function probeBucket(client: Client, store: BlobStore): Promise<void> {
  await reachBucket(client);
  await forTheOperator(async () => {
    const key = `${PROBES}${randomBytes(16).toString("hex")}`;
    try {
      await probe(store, key, client.bucket.name);
    } finally {
      await store.delete([key, ...(await leftOf(store))]).catch(() => {
        // Whatever the first failure is, it is the one to be told.
      });
    }
    if ((await store.get(key)) !== null) throw wrong(client.bucket.name, "it keeps what was deleted");
  });
}

async function probe(store: BlobStore, key: string, bucket: string): Promise<void> {
  const [one, two, three] = [1, 2, 3].map((number) => new TextEncoder().encode(`${key} ${number}`)) as [
    Uint8Array,
    Uint8Array,
    Uint8Array,
  ];
  const first = await store.replace(key, one, null);
  await checkHolds(store, key, one, bucket);
  const second = await store.replace(key, two, first);
  for (const expected of [null, first]) {
    if (!(await isRefused(store, key, three, expected))) {
      throw wrong(
        bucket,
        "it ignores If-Match and If-None-Match, so that two hosts could undo each other's writes",
      );
    }
  }
  if (second === first) throw wrong(bucket, "its ETag does not change with the content");
  await checkHolds(store, key, two, bucket);
  const listed = await Array.fromAsync(store.list(key));
  if (!listed.some((object) => object.key === key && object.sizeBytes === two.length)) {
    throw wrong(bucket, "it does not list what it was given just before");
  }
}

async function isRefused(store: BlobStore, key: string, bytes: Uint8Array, expected: string | null) {
  try {
    await store.replace(key, bytes, expected);
    return false;
  } catch (error) {
    if (error instanceof StaleVersion) return true;
    throw error;
  }
}

async function checkHolds(store: BlobStore, key: string, bytes: Uint8Array, bucket: string): Promise<void> {
  const found = await store.get(key);
  if (found === null || !Buffer.from(found).equals(bytes)) {
    throw wrong(bucket, "it does not give back what it was given just before");
  }
}

async function leftOf(store: BlobStore): Promise<string[]> {
  const all = await Array.fromAsync(store.list(PROBES));
  return all.filter(({ modifiedAt }) => modifiedAt < Date.now() - LEFT_AFTER_MS).map(({ key }) => key);
}

function checkClock(date: string | null, bucket: string): void {
  const skew = date === null ? 0 : Date.parse(date) - Date.now();
  if (Number.isNaN(skew) || Math.abs(skew) <= MAX_SKEW_MS) return;
  const minutes = Math.round(Math.abs(skew) / 60_000);
  throw new BucketFailure(
    "wrong",
    `Bucket ${bucket}: this host's clock is ${minutes} min ${skew > 0 ? "behind" : "ahead of"} the server's; ` +
      "set it right (timedatectl set-ntp true).",
  );
}

function wrong(bucket: string, what: string): BucketFailure {
  return new BucketFailure("wrong", `Bucket ${bucket} cannot be used: ${what}.`);
}

/** The store has told its failures to a caller already; what was beneath is what the operator wants. */
async function forTheOperator(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const failure = error instanceof Error && error.cause instanceof BucketFailure ? error.cause : error;
    throw failure instanceof BucketFailure ? forOperator(failure) : failure;
  }
}

import type { Log } from "../../log.ts";
import { checkKey, isKey, StaleVersion, type BlobStore, type StoredObject, type Version } from "../store.ts";
import type { Client } from "./client.ts";
import { BucketFailure, codeOf, failureOf, forCaller, isPassing } from "./failure.ts";
import type { Answer, Request } from "./http.ts";
import { putInParts } from "./multipart.ts";
import { elementsOf, textOf } from "./xml.ts";

/** What is larger goes up in parts, each of which can be tried again alone. */
const PART_BYTES = 8 * 1024 * 1024;
/** What one request may delete. */
const DELETED_AT_ONCE = 1000;

/** What callers are not told is said in the log, once for as long as it stays the same. */
const SAID_EVERY_MS = 60_000;

/** Blobs as objects of a bucket. Every method throws an AppError, for callers, when the bucket fails. */
export function createS3Store(client: Client, log: Pick<Log, "error">): BlobStore {
  const { bucket } = client;
  const said = { reason: "", at: 0 };

  function asTold(error: unknown): unknown {
    if (!(error instanceof BucketFailure)) return error;
    if (error.message !== said.reason || performance.now() - said.at > SAID_EVERY_MS) {
      Object.assign(said, { reason: error.message, at: performance.now() });
      log.error("the bucket failed a call", { reason: error.message });
    }
    return forCaller(error);
  }

  async function told<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw asTold(error);
    }
  }

  const encryption: Record<string, string> = bucket.sse ? { "x-amz-server-side-encryption": "AES256" } : {};

  /** Throws unless it was a success. */
  async function done(request: Request, deadline?: number): Promise<Answer> {
    const answer = await client.send(request, deadline);
    if (!isSuccess(answer)) throw failureOf(answer, bucket.name);
    return answer;
  }

  async function read(key: string, deadline?: number): Promise<Version | null> {
    const answer = await client.send({ method: "GET", key: checkKey(key) }, deadline);
    // Any other 404 is no answer to the question: there may be no such bucket, or nobody with this access key.
    if (answer.status === 404 && codeOf(answer) === "NoSuchKey") return null;
    if (!isSuccess(answer)) throw failureOf(answer, bucket.name);
    return { bytes: answer.body, tag: answer.headers.get("etag") ?? "" };
  }

  /**
   * A conditional PUT is never simply tried again: had the first been done and its answer lost, the second would be
   * refused, and a success told as a failure. Bun itself repeats a PUT once when a kept connection breaks, so even a
   * refusal may be the second answer. After anything but a success the object is read: ours, as before, or another's.
   */
  async function replace(key: string, bytes: Uint8Array, expected: string | null): Promise<string> {
    const deadline = client.deadline();
    const condition: Record<string, string> =
      expected === null ? { "if-none-match": "*" } : { "if-match": expected };
    const request: Request = {
      method: "PUT",
      key: checkKey(key),
      headers: { ...encryption, ...condition },
      body: owned(bytes),
    };
    for (let tried = 0; ; tried++) {
      const answer = await client.attempt(request, deadline);
      if (!("lost" in answer)) {
        const tag = answer.headers.get("etag");
        if (isSuccess(answer) && tag !== null) return tag;
        if (!isSuccess(answer) && !isRefusal(answer) && !isPassing(answer))
          throw failureOf(answer, bucket.name);
      }
      const found = await read(key, deadline);
      if (found !== null && Buffer.from(found.bytes).equals(bytes)) return found.tag;
      const refused = !("lost" in answer) && (answer.status === 412 || answer.status === 404);
      if (refused || (found?.tag ?? null) !== expected) throw new StaleVersion(key);
      await client.pause(tried, answer, deadline);
    }
  }

  async function* list(prefix: string): AsyncGenerator<StoredObject> {
    for (let token: string | null = null; ;) {
      const { body } = await done({
        method: "GET",
        key: "",
        query: {
          "list-type": "2",
          prefix: bucket.prefix + prefix,
          ...(token === null ? {} : { "continuation-token": token }),
        },
      });
      const xml = new TextDecoder().decode(body);
      for (const element of elementsOf(xml, "Contents")) {
        const key = (textOf(element, "Key") ?? "").slice(bucket.prefix.length);
        // Somebody else's, who has put it in among ours.
        if (!isKey(key)) continue;
        yield {
          key,
          sizeBytes: Number(textOf(element, "Size")),
          modifiedAt: Date.parse(textOf(element, "LastModified") ?? ""),
        };
      }
      token = textOf(xml, "NextContinuationToken");
      if (textOf(xml, "IsTruncated") !== "true") return;
      if (token === null || token === "")
        throw new BucketFailure("wrong", `Bucket ${bucket.name}: it lists only a part.`);
    }
  }

  async function deleteSome(keys: readonly string[]): Promise<void> {
    const objects = keys.map((key) => `<Object><Key>${bucket.prefix}${checkKey(key)}</Key></Object>`);
    const body = new TextEncoder().encode(
      `<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>${objects.join("")}</Delete>`,
    );
    const answer = await done({
      method: "POST",
      key: "",
      query: { delete: "" },
      // Asked for by Amazon.
      headers: { "content-md5": new Bun.CryptoHasher("md5").update(body).digest("base64") },
      body,
    });
    const failed = elementsOf(new TextDecoder().decode(answer.body), "Error").filter(
      (error) => textOf(error, "Code") !== "NoSuchKey",
    );
    const [first] = failed;
    if (first === undefined) return;
    throw new BucketFailure(
      "away",
      `Bucket ${bucket.name}: ${failed.length} objects could not be deleted (${textOf(first, "Code")}).`,
    );
  }

  return {
    async put(key, bytes) {
      const body = owned(bytes);
      await told(async () => {
        if (body.length > PART_BYTES) await putInParts(client, checkKey(key), body, PART_BYTES, encryption);
        else await done({ method: "PUT", key: checkKey(key), headers: encryption, body });
      });
    },

    get: async (key) => told(async () => (await read(key))?.bytes ?? null),

    async delete(keys) {
      await told(async () => {
        for (let at = 0; at < keys.length; at += DELETED_AT_ONCE) {
          await deleteSome(keys.slice(at, at + DELETED_AT_ONCE));
        }
      });
    },

    async *list(prefix) {
      const objects = list(prefix);
      try {
        yield* objects;
      } catch (error) {
        throw asTold(error);
      }
    },

    read: async (key) => told(async () => read(key)),

    tag: async (key) =>
      told(async () => {
        const { status, headers } = await client.send({ method: "HEAD", key: checkKey(key) });
        const tag = headers.get("etag");
        // What else it means stands in a body, which a HEAD has none of.
        return status === 200 && tag !== null ? tag : ((await read(key))?.tag ?? null);
      }),

    replace: async (key, bytes, expected) => told(async () => replace(key, bytes, expected)),
  };
}

/** Refused for its condition, or for another that was on its way: nothing was changed by this one. */
function isRefusal(answer: Answer): boolean {
  return (
    answer.status === 412 ||
    (answer.status === 409 && codeOf(answer) === "ConditionalRequestConflict") ||
    (answer.status === 404 && codeOf(answer) === "NoSuchKey")
  );
}

function isSuccess({ status }: Answer): boolean {
  return status >= 200 && status < 300;
}

/** fetch takes no bytes that another thread could share. */
function owned(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes.buffer instanceof ArrayBuffer ? (bytes as Uint8Array<ArrayBuffer>) : new Uint8Array(bytes);
}

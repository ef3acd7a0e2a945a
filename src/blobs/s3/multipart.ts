import type { Client } from "./client.ts";
import { BucketFailure, codeOf, failureOf, isPassing } from "./failure.ts";
import type { Answer, Request } from "./http.ts";
import { elementsOf, textOf } from "./xml.ts";

const PARTS_AT_ONCE = 4;
/** For taking back what was uploaded, after a failure that took its time already. */
const GIVE_UP_MS = 5_000;

/** Puts a large object in parts. It is there whole or not at all; of a failed upload nothing is left to be paid for. */
export async function putInParts(
  client: Client,
  key: string,
  bytes: Uint8Array<ArrayBuffer>,
  partBytes: number,
  headers: Readonly<Record<string, string>>,
): Promise<void> {
  const { name } = client.bucket;

  async function send(request: Omit<Request, "key">): Promise<Answer> {
    const answer = await client.send({ ...request, key });
    if (answer.status < 200 || answer.status >= 300) throw failureOf(answer, name);
    return answer;
  }

  const begun = xmlOf(await send({ method: "POST", query: { uploads: "" }, headers }));
  const uploadId = textOf(begun, "UploadId");
  if (uploadId === null) throw new BucketFailure("wrong", `Bucket ${name}: it takes no upload in parts.`);

  const tags: string[] = Array.from({ length: Math.ceil(bytes.length / partBytes) }, () => "");
  const state = { next: 0 };

  /** Takes the next part as soon as it is free; a failure is the last of all. */
  async function putParts(): Promise<void> {
    while (state.next < tags.length) {
      const index = state.next++;
      const { headers: told } = await send({
        method: "PUT",
        query: { partNumber: String(index + 1), uploadId: uploadId ?? "" },
        body: bytes.subarray(index * partBytes, (index + 1) * partBytes),
      });
      tags[index] = told.get("etag") ?? "";
    }
  }

  try {
    const workers = Array.from({ length: PARTS_AT_ONCE }, async () =>
      putParts().finally(() => (state.next = tags.length)),
    );
    // No part may come after the upload was given up.
    const failed = (await Promise.allSettled(workers)).find(({ status }) => status === "rejected");
    if (failed?.status === "rejected") throw failed.reason;
    await complete(client, { key, uploadId, tags, size: bytes.length });
  } catch (error) {
    const giveUp: Request = { method: "DELETE", key, query: { uploadId } };
    await client.send(giveUp, performance.now() + GIVE_UP_MS).catch(() => {
      // The bucket's rule for unfinished uploads, which docs/storage.md asks for, takes it away.
    });
    throw error;
  }
}

/** An answer that was lost may have been a success, after which the upload is unknown. */
async function complete(
  client: Client,
  { key, uploadId, tags, size }: { key: string; uploadId: string; tags: readonly string[]; size: number },
): Promise<void> {
  const parts = tags.map(
    (tag, index) => `<Part><PartNumber>${index + 1}</PartNumber><ETag>${escaped(tag)}</ETag></Part>`,
  );
  const body = new TextEncoder().encode(
    `<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${parts.join("")}</CompleteMultipartUpload>`,
  );
  const request: Request = { method: "POST", key, query: { uploadId }, body };
  const deadline = client.deadline();
  for (let tried = 0, uncertain = false; ; tried++) {
    const answer = await client.attempt(request, deadline);
    if (!("lost" in answer)) {
      // Amazon says 200 first, and puts an error in the body when it fails after that.
      if (answer.status === 200 && textOf(xmlOf(answer), "Code") === null) return;
      const unknown = codeOf(answer) === "NoSuchUpload";
      if (uncertain && unknown && (await isThere(client, key, size))) return;
      if (answer.status >= 300 && !isPassing(answer)) throw failureOf(answer, client.bucket.name);
    }
    uncertain = true;
    await client.pause(tried, answer, deadline);
  }
}

async function isThere(client: Client, key: string, size: number): Promise<boolean> {
  const prefix = client.bucket.prefix + key;
  const answer = await client.send({ method: "GET", key: "", query: { "list-type": "2", prefix } });
  return elementsOf(xmlOf(answer), "Contents").some(
    (element) => textOf(element, "Key") === prefix && Number(textOf(element, "Size")) === size,
  );
}

function xmlOf({ body }: Answer): string {
  return new TextDecoder().decode(body);
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}

import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { S3Client } from "bun";
import { createLocalStore } from "../src/blobs/local.ts";
import type { BlobStore } from "../src/blobs/store.ts";
import { ACCESS_KEY, SECRET_KEY, startS3Server } from "../test/fixtures/s3-server.ts";
import { storeAt } from "../test/fixtures/s3-store.ts";
import { interleaved, together, type Summary } from "./stats.ts";

const SIZES = { "64 KiB": 64 * 1024, "4 MiB": 4 * 1024 * 1024 };
const AT_ONCE = 8;

/** Blobs to the local disk, to an S3 server by our client, and to the same by Bun's own. */
export async function stores(work: string, rounds: number): Promise<Summary[]> {
  await using server = await startS3Server();
  const local = createLocalStore(join(work, "blobs"));
  const { store } = storeAt(server.endpoint, { prefix: "ours/" });
  const { endpoint, bucket } = server;
  const keys = { accessKeyId: ACCESS_KEY, secretAccessKey: SECRET_KEY };
  const buns = new S3Client({ endpoint, bucket, region: "us-east-1", ...keys });
  const contents = Object.entries(SIZES).map(([size, bytes]) => ({ size, content: randomBytes(bytes) }));
  const state = { next: 0 };
  const rows: Summary[] = [];
  for (const { size, content } of contents) {
    /** Another key each time: what is there already is not made durable again. */
    const key = () => `bench/${size.replace(" ", "").toLowerCase()}-${state.next++}`;
    const fixed = `bench/${content.length}`;
    const put = (to: BlobStore) => async () => to.put(key(), content);
    const get = (from: BlobStore) => async () => {
      if ((await from.get(fixed))?.length !== content.length) throw new Error("not what was put");
    };
    await Promise.all([local.put(fixed, content), store.put(fixed, content), buns.write(fixed, content)]);
    const putBuns = async () => void (await buns.write(key(), content));
    const getBuns = async () => {
      if ((await buns.file(fixed).bytes()).length !== content.length) throw new Error("not what was put");
    };
    const crowds = {
      [`put ${size}, ${AT_ONCE} at once: bucket`]: put(store),
      [`put ${size}, ${AT_ONCE} at once: bucket, Bun's client`]: putBuns,
    };
    // Both get as many connections and as warm a server.
    for (const [name, run] of Object.entries(crowds)) await together(name, AT_ONCE, rounds, run);
    rows.push(
      ...(await interleaved(
        {
          [`put ${size}: local disk`]: put(local),
          [`put ${size}: bucket`]: put(store),
          [`put ${size}: bucket, Bun's client`]: putBuns,
          [`get ${size}: local disk`]: get(local),
          [`get ${size}: bucket`]: get(store),
          [`get ${size}: bucket, Bun's client`]: getBuns,
        },
        { rounds },
      )),
    );
    for (const [name, run] of Object.entries(crowds)) {
      rows.push(await together(name, AT_ONCE, rounds * 2, run));
    }
  }
  return rows;
}

import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { z } from "zod";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import type { NamespaceKey } from "../keys/namespace-keys.ts";
import { manifestRef, type ManifestRef } from "../snapshots/manifest.ts";
import { decodeDelta, encodeDelta } from "./delta.ts";

const FORMAT = "cofferdam head 1";
const CIPHER = "aes-256-gcm";
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

const headSchema = z.strictObject({
  format: z.literal(FORMAT),
  /** One more with each claim. */
  epoch: z.int().positive(),
  /** The data directory whose claim it is: inodes and times in the manifest are of its disk. */
  host: z.string(),
  /** The process that wrote it. */
  run: z.string(),
  /** This version of it, so that a writer who got no answer knows his own again. */
  commit: z.string(),
  sequence: z.int(),
  /** Blobs that nothing names are being deleted: who claims it meanwhile waits before he stores any. */
  collecting: z.boolean(),
  /** null: no files. */
  base: manifestRef.transform((ref): ManifestRef => ref).nullable(),
  delta: z.array(z.tuple([z.string(), z.string().nullable()])).transform((lines) => decodeDelta(lines)),
});

/** What a namespace's files are: the one object in the bucket that changes. */
export type Head = Omit<z.infer<typeof headSchema>, "format">;

export function headKey(namespace: NamespaceId): string {
  return `${namespace}/head`;
}

export type HeadCodec = ReturnType<typeof createHeadCodec>;

/** Sealed as blobs are. Each sealing is other bytes, so that no two versions have one tag. */
export function createHeadCodec(namespace: NamespaceId, key: NamespaceKey) {
  const secret = key.derive("head");
  const boundTo = Buffer.from(`${FORMAT} ${namespace}`);

  return {
    async seal(head: Head): Promise<Uint8Array> {
      const text = JSON.stringify({ format: FORMAT, ...head, delta: encodeDelta(head.delta) });
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv(CIPHER, secret, nonce).setAAD(boundTo);
      const sealed = cipher.update(await Bun.zstdCompress(text, { level: 1 }));
      cipher.final();
      return Buffer.concat([nonce, sealed, cipher.getAuthTag()]);
    },

    async open(bytes: Uint8Array): Promise<Head> {
      try {
        const decipher = createDecipheriv(CIPHER, secret, bytes.subarray(0, NONCE_BYTES));
        decipher.setAAD(boundTo).setAuthTag(bytes.subarray(-TAG_BYTES));
        const packed = decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES));
        decipher.final();
        const text = Buffer.from(await Bun.zstdDecompress(packed)).toString();
        const { format: _, ...head } = headSchema.parse(JSON.parse(text));
        return head;
      } catch (error) {
        throw new AppError("internal", `The bucket's ${headKey(namespace)} is damaged.`, { cause: error });
      }
    },
  };
}

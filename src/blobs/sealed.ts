import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import type { NamespaceKey } from "../keys/namespace-keys.ts";
import { checkKey, type BlobStore } from "./store.ts";

/** What one blob holds at most, before it is compressed and sealed. */
export const MAX_BLOB_BYTES = 4 * 1024 * 1024;

const CIPHER = "aes-256-gcm";
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const HEADER_BYTES = 1 + NONCE_BYTES;
/** The first byte says how the content was written before it was sealed. */
const RAW = 1;
const ZSTD = 2;
/** What is worth a try: random data at level 1 costs little more than the copy. */
const COMPRESS_FROM_BYTES = 128;

/** Less than that may share its memory with others. */
const RELEASED_FROM_BYTES = 64 * 1024;

/** A keyed hash of the content, in hex: the same content has the same id within a namespace, and nowhere else. */
export type BlobId = string & { readonly blob: unique symbol };

export const BLOB_ID = /^[0-9a-f]{64}$/;

export interface SealedBlobsParts {
  readonly store: Pick<BlobStore, "put" | "get">;
  readonly namespace: NamespaceId;
  readonly key: NamespaceKey;
}

export type SealedBlobs = ReturnType<typeof createSealedBlobs>;

/**
 * A namespace's blobs: compressed, sealed under its own key, and bound to their ids, so that a store which hands out
 * another blob, or a changed one, is found out.
 */
export function createSealedBlobs({ store, namespace, key }: SealedBlobsParts) {
  const idKey = key.derive("blob id");
  const contentKey = key.derive("blob content");

  const idOf = (plain: Uint8Array): BlobId =>
    new Bun.CryptoHasher("sha256", idKey).update(plain).digest("hex") as BlobId;

  const keyOf = (id: BlobId): string => checkKey(blobKey(namespace, id));

  async function seal(id: BlobId, plain: Uint8Array): Promise<Uint8Array> {
    const packed = plain.length < COMPRESS_FROM_BYTES ? plain : await Bun.zstdCompress(plain, { level: 1 });
    const [form, content] = packed.length < plain.length ? [ZSTD, packed] : [RAW, plain];
    const header = Buffer.concat([Buffer.of(form), randomBytes(NONCE_BYTES)]);
    const cipher = createCipheriv(CIPHER, contentKey, header.subarray(1)).setAAD(boundTo(id, form));
    const sealed = cipher.update(content);
    cipher.final();
    const whole = Buffer.concat([header, sealed, cipher.getAuthTag()]);
    release(sealed);
    if (packed !== plain) release(packed);
    return whole;
  }

  /** Throws when it is not what was sealed as `id`. */
  async function open(id: BlobId, bytes: Uint8Array): Promise<Uint8Array> {
    const [form] = bytes;
    if (form === undefined || bytes.length < HEADER_BYTES + TAG_BYTES) throw new Error("it is cut short");
    const decipher = createDecipheriv(CIPHER, contentKey, bytes.subarray(1, HEADER_BYTES));
    decipher.setAAD(boundTo(id, form)).setAuthTag(bytes.subarray(-TAG_BYTES));
    const content = decipher.update(bytes.subarray(HEADER_BYTES, -TAG_BYTES));
    decipher.final();
    if (form !== ZSTD) return content;
    const plain = await Bun.zstdDecompress(content);
    release(content);
    return plain;
  }

  return {
    idOf,
    keyOf,
    /** The content of a blob that was read elsewhere. Throws when it is not what was sealed as `id`. */
    open,

    /** Durable when it resolves. `storedBytes` is what it takes in the store; `id` is for who knows it already. */
    async put(
      plain: Uint8Array,
      id = idOf(plain),
    ): Promise<{ readonly id: BlobId; readonly storedBytes: number }> {
      if (plain.length > MAX_BLOB_BYTES) throw new Error(`a blob of ${plain.length} bytes`);
      const sealed = await seal(id, plain);
      await store.put(keyOf(id), sealed);
      const storedBytes = sealed.length;
      release(sealed);
      return { id, storedBytes };
    },

    /** The content, verified. Throws DamagedBlob when it is missing or damaged. */
    async get(id: BlobId): Promise<Uint8Array> {
      const bytes = await store.get(keyOf(id));
      if (bytes === null) throw new DamagedBlob(id, "it is missing");
      try {
        const plain = await open(id, bytes);
        release(bytes);
        return plain;
      } catch (error) {
        throw new DamagedBlob(id, "it is not what was stored", error);
      }
    },
  };
}

/**
 * Gives the memory of what nobody uses any more back at once. It lies outside of the collector's heap, which grows by
 * hundreds of MiB before it looks for it.
 */
function release({ buffer, length }: Uint8Array): void {
  if (length >= RELEASED_FROM_BYTES && buffer instanceof ArrayBuffer) buffer.transfer(0);
}

/** Where a blob lies in any store. */
export function blobKey(namespace: NamespaceId, id: BlobId): string {
  return `${blobPrefix(namespace)}${id.slice(0, 2)}/${id}`;
}

/** What the keys of all of a namespace's blobs begin with. */
export function blobPrefix(namespace: NamespaceId): string {
  return `${namespace}/blobs/`;
}

function boundTo(id: BlobId, form: number): Buffer {
  return Buffer.from(`cofferdam blob ${form} ${id}`);
}

/** What a blob held is lost, in the store or on the way from it. */
export class DamagedBlob extends AppError {
  readonly blob: BlobId;
  readonly reason: string;

  constructor(blob: BlobId, reason: string, cause?: unknown) {
    super("internal", `The blob ${blob} is damaged: ${reason}.`, { cause });
    this.name = "DamagedBlob";
    this.blob = blob;
    this.reason = reason;
  }
}

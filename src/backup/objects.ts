import { z } from "zod";
import type { BlobStore } from "../blobs/store.ts";
import { AppError } from "../errors.ts";
import type { Secrets } from "../secrets.ts";
import { pieceKey } from "./layout.ts";

const PIECE_BYTES = 4 * 1024 * 1024;
const PURPOSE = "backup";

/** What is kept in pieces, and what proves that it is whole. */
export const pieces = z.strictObject({
  pieces: z.int().min(0),
  bytes: z.int().min(0),
  sha256: z.string(),
});
export type Pieces = z.infer<typeof pieces>;

export interface ObjectsParts {
  readonly store: BlobStore;
  /** The appliance's. */
  readonly secrets: Pick<Secrets, "seal" | "open">;
}

export type Objects = ReturnType<typeof createObjects>;

/** A backup's own objects: compressed, sealed under the appliance's secret, and bound to their keys. */
export function createObjects({ store, secrets }: ObjectsParts) {
  async function put(key: string, plain: Uint8Array): Promise<void> {
    const packed = await Bun.zstdCompress(plain, { level: 1 });
    await store.put(key, secrets.seal(PURPOSE, packed, key));
  }

  async function get(key: string): Promise<Uint8Array> {
    const sealed = await store.get(key);
    if (sealed === null) throw damaged(key, "it is missing");
    try {
      return await Bun.zstdDecompress(secrets.open(PURPOSE, sealed, key));
    } catch (error) {
      throw damaged(key, "it is not what was stored", error);
    }
  }

  return {
    put,

    /** Throws an AppError that names the object when it is missing or damaged. */
    get,

    async putAll(prefix: string, content: AsyncIterable<Uint8Array>): Promise<Pieces> {
      const hash = new Bun.CryptoHasher("sha256");
      const count = { pieces: 0, bytes: 0 };
      for await (const piece of piecesOf(content)) {
        hash.update(piece);
        await put(pieceKey(prefix, count.pieces), piece);
        count.pieces += 1;
        count.bytes += piece.length;
      }
      return { ...count, sha256: hash.digest("hex") };
    },

    /** The end comes only once the whole has been found to be what was put. */
    async *getAll(prefix: string, expected: Pieces): AsyncGenerator<Uint8Array, void> {
      const hash = new Bun.CryptoHasher("sha256");
      for (let index = 0; index < expected.pieces; index++) {
        const piece = await get(pieceKey(prefix, index));
        hash.update(piece);
        yield piece;
      }
      if (hash.digest("hex") !== expected.sha256) throw damaged(prefix, "its pieces are not one whole");
    },
  };
}

function damaged(key: string, what: string, cause?: unknown): AppError {
  return new AppError("internal", `The backup's object ${key} is damaged: ${what}.`, { cause });
}

async function* piecesOf(content: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  const piece = new Uint8Array(PIECE_BYTES);
  let filled = 0;
  for await (const bytes of content) {
    for (let at = 0; at < bytes.length;) {
      const part = bytes.subarray(at, at + PIECE_BYTES - filled);
      piece.set(part, filled);
      filled += part.length;
      at += part.length;
      if (filled < PIECE_BYTES) continue;
      yield piece;
      filled = 0;
    }
  }
  if (filled > 0) yield piece.subarray(0, filled);
}

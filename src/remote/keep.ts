import { MAX_BLOB_BYTES, type SealedBlobs } from "../blobs/sealed.ts";
import { AppError } from "../errors.ts";
import { lookFd } from "../kernel/look.ts";
import { createFlow } from "../snapshots/flow.ts";
import { BUNDLED_BELOW, HASH_LENGTH } from "../snapshots/pack.ts";
import { MAX_EXTENTS, type Extent } from "../snapshots/manifest.ts";
import { readAt } from "../volumes/disk.ts";
import type { Kept } from "./mirror.ts";

const PUTS_AT_ONCE = 4;

/** Puts a file's content in the store. Nobody writes to the file meanwhile. */
export async function keepFile(blobs: Pick<SealedBlobs, "put" | "idOf">, fd: number): Promise<Kept> {
  const { inode, size, mtime } = lookFd(fd);
  if (Math.ceil(size / MAX_BLOB_BYTES) > MAX_EXTENTS)
    return { inode, size, mtime, data: null, hash: undefined };
  const flow = createFlow(PUTS_AT_ONCE);
  const data: Extent[] = [];
  for (let position = 0; position < size; position += MAX_BLOB_BYTES) {
    const piece = await readPiece(fd, position, Math.min(MAX_BLOB_BYTES, size - position));
    await flow.start(async () => {
      const { id } = await blobs.put(piece);
      data[position / MAX_BLOB_BYTES] = [position, id, 0, piece.length];
    });
  }
  await flow.end();
  const small = size < BUNDLED_BELOW ? (data[0]?.[1] ?? blobs.idOf(new Uint8Array())) : null;
  return { inode, size, mtime, data, hash: small?.slice(0, HASH_LENGTH) };
}

async function readPiece(fd: number, position: number, length: number): Promise<Uint8Array> {
  const buffer = new Uint8Array(length);
  for (let have = 0; have < length;) {
    const count = await readAt(fd, buffer, have, length - have, position + have);
    if (count === 0) throw new AppError("conflict", "The file is being changed; try again.");
    have += count;
  }
  return buffer;
}

import { rename, unlink } from "node:fs/promises";
import { makeAnnounced, type Announce } from "../audit/announce.ts";
import { AppError, codeOf } from "../errors.ts";
import type { FileStatus } from "../kernel/directory.ts";
import { constants, fchmodFd, fchownFd, openBeneath } from "../kernel/openat2.ts";
import { statfs } from "../kernel/statfs.ts";
import type { Kept, Mirrored } from "../remote/mirror.ts";
import { OPEN_DIRECTORY, openInside, placeOf, type Place } from "./beneath.ts";
import { closeFile, syncFile, writeAt } from "./disk.ts";
import { fileFailure, notRegular } from "./failure.ts";
import { checkFloor } from "./floor.ts";
import { ensureParents, missingParents, TENANT } from "./parents.ts";
import type { WorkspacePath } from "./path.ts";
import type { Room } from "./quota.ts";
import type { Space } from "./space.ts";
import { chargeOf, type Amount } from "./usage.ts";

const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
const FILE_MODE = 0o644;
/** How often a large write looks whether the disk still has room. */
const FLOOR_CHECK_BYTES = 1024 * 1024;
/** Of a directory that is deleted again and again while a file is put into it. */
const MAX_ATTEMPTS = 5;

export interface WriteLimits {
  readonly maxBytes: number;
  /** What the disk has to have free afterwards. */
  readonly diskFloorBytes: number;
}

export interface WriteSource {
  readonly chunks: AsyncIterable<Uint8Array> | readonly Uint8Array[];
  /** What the client announced; a body that ends early is not written. */
  readonly sizeBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface Written {
  readonly path: string;
  readonly sizeBytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
}

export interface WriteOptions {
  readonly limits: WriteLimits;
  /** Told of the file when all of it has arrived, with what tells a later start whether it took its place. */
  readonly announce: Announce;
  /** Makes names in tmp. */
  readonly freshName: () => string;
  /** Runs what changes the workspace, with its directories as they are by then: a restore may have replaced them. */
  readonly changing: (work: (space: Space) => Promise<void>) => Promise<void>;
  /** Runs what adds so much, or refuses it. */
  readonly within: <T>(more: Amount, make: (room: Room) => Promise<T>) => Promise<T>;
  readonly mirror: Mirrored;
}

/**
 * Puts a whole file in place, or nothing: the bytes go beside the workspace, reach the disk together with the
 * announcement, and take the name by a rename, which the disk has too before this returns. An existing file keeps its
 * mode; missing directories are made.
 */
export async function writeFile(
  space: Space,
  path: WorkspacePath,
  source: WriteSource,
  options: WriteOptions,
): Promise<Written> {
  checkWrite(path, source.sizeBytes ?? 0, options.limits);
  try {
    const ahead = lookAhead(space, path);
    const more = {
      bytes: Math.max(0, (source.sizeBytes ?? 0) - ahead.replacedBytes),
      entries: ahead.newEntries,
    };
    return await options.within(more, async (room) =>
      writeThrough(space, path, source, { ...options, ...ahead, room }),
    );
  } catch (error) {
    throw fileFailure(error, path);
  }
}

async function writeThrough(
  space: Space,
  path: WorkspacePath,
  source: WriteSource,
  options: WriteOptions & Ahead & { readonly room: Room },
): Promise<Written> {
  const { limits, freshName, mode, room, changing, mirror } = options;
  checkFloor(statfs(space.tmp.fd), limits.diskFloorBytes, source.sizeBytes ?? 0);
  const fresh = freshName();
  const fd = openBeneath(space.tmp.fd, fresh, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    const { sizeBytes, sha256 } = await receive(space, fd, source, options);
    fchownFd(fd, TENANT, TENANT);
    // After the chown, which takes setuid and setgid away, and so does this.
    fchmodFd(fd, mode);
    const data = { path: path.text, size_bytes: sizeBytes, sha256 };
    const announcing = options.announce({ ...data, temporary: fresh });
    await makeAnnounced(announcing, data, async (happened) =>
      mirror.sharing(async () => {
        const [kept] = await Promise.all([mirror.keep(fd), syncFile(fd), announcing]);
        source.signal?.throwIfAborted();
        const placing = { fresh, freshName, sizeBytes, kept, room, mirror, happened };
        await changing(async (now) => putInPlace(now, path, placing));
      }),
    );
    return { path: path.text, sizeBytes, sha256 };
  } catch (error) {
    await unlink(space.tmp.entry(fresh)).catch(ignoreAbsence);
    throw error;
  } finally {
    await closeFile(fd);
  }
}

/** What can be refused without a look at the disk. */
export function checkWrite(path: WorkspacePath, sizeBytes: number, limits: WriteLimits): void {
  if (path.names.length === 0 || path.directory) {
    throw new AppError("bad_input", `${path.text} names a directory; give the path of a file.`);
  }
  checkSize(sizeBytes, limits);
}

interface Ahead {
  readonly mode: number;
  readonly newEntries: number;
  readonly replacedBytes: number;
}

/** What can be refused before the body is read. */
function lookAhead(space: Space, path: WorkspacePath): Ahead {
  const missing = missingParents(space, path);
  if (missing > 0) return { mode: FILE_MODE, newEntries: missing + 1, replacedBytes: 0 };
  const dir = openInside(space.live, path.names.slice(0, -1).join("/"), OPEN_DIRECTORY);
  using place = placeOf(space.live, path.inner, dir);
  checkReplaceable(place, path);
  return place.status === null
    ? { mode: FILE_MODE, newEntries: 1, replacedBytes: 0 }
    : { mode: place.status.mode & 0o777, newEntries: 0, replacedBytes: freedBytes(place.status) };
}

/** Another name of the same file keeps its bytes. */
function freedBytes(status: FileStatus): number {
  return status.links > 1n ? 0 : chargeOf(status);
}

function checkReplaceable(place: Place, path: WorkspacePath): void {
  if (place.status?.kind === "directory") {
    throw new AppError("conflict", `${path.text} is a directory; delete it first.`);
  }
  if (place.status?.kind === "other") throw notRegular(path);
}

async function receive(
  space: Space,
  fd: number,
  source: WriteSource,
  { limits, room, replacedBytes }: { limits: WriteLimits; room: Room; replacedBytes: number },
) {
  const hash = new Bun.CryptoHasher("sha256");
  let size = 0;
  let nextCheck = FLOOR_CHECK_BYTES;
  for await (const chunk of source.chunks) {
    source.signal?.throwIfAborted();
    checkSize(size + chunk.length, limits);
    if (size + chunk.length > nextCheck) {
      checkFloor(statfs(space.tmp.fd), limits.diskFloorBytes, chunk.length);
      nextCheck += FLOOR_CHECK_BYTES;
    }
    await room.reserve(size + chunk.length - replacedBytes);
    hash.update(chunk);
    await writeAt(fd, chunk, size);
    size += chunk.length;
  }
  if (source.sizeBytes !== undefined && size !== source.sizeBytes) {
    throw new AppError(
      "bad_input",
      `The body ended after ${size} of the ${source.sizeBytes} bytes announced.`,
    );
  }
  return { sizeBytes: size, sha256: hash.digest("hex") };
}

interface Placing {
  readonly fresh: string;
  readonly freshName: () => string;
  readonly sizeBytes: number;
  readonly kept: Kept | null;
  readonly room: Room;
  readonly mirror: Mirrored;
  readonly happened: () => void;
}

async function putInPlace(
  space: Space,
  path: WorkspacePath,
  { fresh, freshName, sizeBytes, kept, room, mirror, happened }: Placing,
): Promise<void> {
  const made = () => room.add({ directories: 1 });
  for (let attempt = 1; ; attempt++) {
    const { dir, grown } = ensureParents(space, path, { freshName, made });
    try {
      using place = await room.inTurn(async () => {
        const found = placeOf(space.live, path.inner, dir);
        try {
          checkReplaceable(found, path);
          await rename(space.tmp.entry(fresh), found.dir.entry(found.name));
        } catch (error) {
          found[Symbol.dispose]();
          throw error;
        }
        happened();
        const before = found.status === null ? { files: 1, bytes: 0 } : { bytes: -freedBytes(found.status) };
        room.add({ ...before, bytes: sizeBytes + before.bytes });
        return found;
      });
      // The new names are on the disk, and in the mirror, before anybody is told of them.
      await Promise.all([
        mirror.changed(place.dir.fd, place.name, kept),
        ...[place.dir, ...grown].map(async ({ fd }) => syncFile(fd)),
      ]);
      return;
    } catch (error) {
      if (codeOf(error) !== "ENOENT" || attempt >= MAX_ATTEMPTS) throw error;
    } finally {
      for (const each of grown) each[Symbol.dispose]();
    }
  }
}

function checkSize(size: number, limits: WriteLimits): void {
  if (size <= limits.maxBytes) return;
  throw new AppError("too_large", `A file may have at most ${limits.maxBytes} bytes here.`);
}

function ignoreAbsence(error: unknown): void {
  if (codeOf(error) !== "ENOENT") throw error;
}

import { close, fsync, read, write } from "node:fs";

/*
 * The calls that wait for the disk, on Bun's threads. By hand, since node's promisify gives read and write another
 * shape than their callbacks have.
 */

/** Up to `length` bytes at `position` into `buffer` at `offset`; 0 at the end of the file. */
export async function readAt(
  fd: number,
  buffer: Uint8Array,
  offset: number,
  length: number,
  position: number,
): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  read(fd, buffer, offset, length, position, (error, count) => (error ? reject(error) : resolve(count)));
  return promise;
}

/** All of `bytes` at `position`. */
export async function writeAt(fd: number, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    write(fd, bytes, done, bytes.length - done, position + done, (error, count) =>
      error ? reject(error) : resolve(count),
    );
    done += await promise;
  }
}

export async function syncFile(fd: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  fsync(fd, (error) => (error ? reject(error) : resolve()));
  return promise;
}

/** Closing the last descriptor of a deleted file is what frees its blocks, so it may take a while. */
export async function closeFile(fd: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  close(fd, (error) => (error ? reject(error) : resolve()));
  return promise;
}

import { AppError } from "../errors.ts";
import { constants } from "../kernel/openat2.ts";
import { statFd, type FileStatus } from "../kernel/directory.ts";
import { openInside } from "./beneath.ts";
import { closeFile, readAt } from "./disk.ts";
import { fileFailure, notRegular } from "./failure.ts";
import type { WorkspacePath } from "./path.ts";
import type { Space } from "./space.ts";

const { O_RDONLY, O_NONBLOCK, O_NOCTTY } = constants;
const CHUNK_BYTES = 256 * 1024;

/** A regular file of a namespace, open for reading. Whoever has it closes it, by `close` or by using up a stream. */
export interface OpenFile {
  readonly path: string;
  readonly status: FileStatus;
  /** At most `length` bytes from `start`; fewer when the file ends before. Leaves the file open. */
  bytes(start: number, length: number): Promise<Uint8Array>;
  /** Exactly `length` bytes from `start`, or an error when the file shrinks meanwhile. Closes the file at its end. */
  stream(start: number, length: number, signal: AbortSignal): FileStream;
  close(): Promise<void>;
}

export interface FileStream {
  readonly body: ReadableStream<Uint8Array>;
  /** Settles when the file is closed. */
  readonly done: Promise<void>;
}

/** Opens without waiting for anything: a FIFO or a socket that the tenant put there is refused. */
export function openFile(space: Space, path: WorkspacePath): OpenFile {
  try {
    const file = openInside(space.live, path.inner, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    const status = statFd(file.fd);
    if (status.kind !== "file" || path.directory) {
      file[Symbol.dispose]();
      throw status.kind === "other" ? notRegular(path) : misnamed(status, path);
    }
    return ofDescriptor(file.fd, path, status);
  } catch (error) {
    throw fileFailure(error, path);
  }
}

function misnamed(status: FileStatus, path: WorkspacePath): AppError {
  return status.kind === "directory"
    ? new AppError("bad_input", `${path.text} is a directory; list it, or name a file in it.`)
    : new AppError("bad_input", `${path.text} is a file; take the slash off its end.`);
}

function ofDescriptor(fd: number, path: WorkspacePath, status: FileStatus): OpenFile {
  let closed: Promise<void> | undefined;
  const closeOnce = () => (closed ??= closeFile(fd));

  async function bytes(start: number, length: number): Promise<Uint8Array> {
    const buffer = new Uint8Array(length);
    let size = 0;
    while (size < length) {
      const count = await readAt(fd, buffer, size, length - size, start + size);
      if (count === 0) break;
      size += count;
    }
    return buffer.subarray(0, size);
  }

  return {
    path: path.text,
    status,
    bytes,
    close: closeOnce,
    stream(start, length, signal) {
      const { promise: done, resolve } = Promise.withResolvers<void>();
      const end = start + length;
      let position = start;
      let reading: Promise<unknown> = Promise.resolve();
      const finish = async () => {
        signal.removeEventListener("abort", abort);
        // A read under way keeps its descriptor: the number could be another file's by then.
        await reading.catch(() => {});
        await closeOnce();
        resolve();
      };
      let fail: (reason: unknown) => void = () => {};
      const abort = () => {
        fail(signal.reason);
        void finish();
      };
      const body = new ReadableStream<Uint8Array>(
        {
          start(controller) {
            fail = (reason) => controller.error(reason);
            if (signal.aborted) abort();
            else signal.addEventListener("abort", abort, { once: true });
          },
          async pull(controller) {
            try {
              const next = bytes(position, Math.min(CHUNK_BYTES, end - position));
              reading = next;
              const chunk = await next;
              if (signal.aborted) return;
              position += chunk.length;
              if (chunk.length > 0) controller.enqueue(chunk);
              // The client sees the connection break off, not an answer that looks whole.
              else if (position < end) throw new Error("the file shrank while it was being sent");
              if (position < end) return;
              controller.close();
              await finish();
            } catch (error) {
              await finish();
              throw error;
            }
          },
          cancel: finish,
        },
        { highWaterMark: 1 },
      );
      return { body, done };
    },
  };
}

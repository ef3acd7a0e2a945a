import { fstatSync, writeSync } from "node:fs";
import { KernelError, NR, syscall } from "./libc.ts";

export interface LineWriter {
  /** Takes whole lines. `urgent` ones, and all before them, are written before this returns, if they can be. */
  readonly write: (lines: string, urgent: boolean) => void;
  /** Writes what waits, as far as it is taken. */
  readonly flush: () => void;
  /** How many lines were given up, because nobody read. */
  readonly lost: () => number;
}

/** Takes bytes, as many as it can without waiting, and returns how many. Throws when it will never take these. */
export type Sink = (bytes: Uint8Array) => number;

export interface LineWriterOptions {
  readonly sink: Sink;
  /** The line that tells a reader who comes back that so many are missing. */
  readonly gap: (lost: number) => string;
  /** What may wait for a reader, in characters. */
  readonly capacity?: number;
}

/** A pipe that poll finds writable takes so much without waiting: PIPE_BUF, see pipe(7). */
const PIECE_BYTES = 4096;
const CAPACITY = 512 * 1024;
/** Lines of so long are written together: a write a line would wake the reader for each. */
const GATHER_MS = 20;
const GATHER_CHARACTERS = 32 * 1024;
const RETRY_MS = 50;

/**
 * Lines for a sink that may be slow, full or closed: they wait, then they are lost and counted, and whoever writes is
 * never held up.
 */
export function createLineWriter({ sink, gap, capacity = CAPACITY }: LineWriterOptions): LineWriter {
  let waiting: string[] = [];
  let characters = 0;
  /** Taken from `waiting`, and not all written. */
  let rest: Uint8Array = new Uint8Array(0);
  let lost = 0;
  let told = 0;
  let timer: Timer | null = null;

  function write(lines: string, urgent: boolean): void {
    if (characters + rest.length + lines.length > capacity) {
      lost += countLines(lines);
      return;
    }
    tellOfGap();
    waiting.push(lines);
    characters += lines.length;
    // With a rest, the reader is slow, and a timer asks it.
    if (rest.length === 0 && (urgent || characters > GATHER_CHARACTERS)) flush();
    else timer ??= setTimeout(flush, GATHER_MS);
  }

  /** In the place of those that are missing. */
  function tellOfGap(): void {
    if (told === lost) return;
    waiting.push(gap(lost - told));
    told = lost;
  }

  function flush(): void {
    if (timer !== null) clearTimeout(timer);
    timer = null;
    for (;;) {
      rest = put(rest);
      if (rest.length > 0) {
        timer = setTimeout(flush, RETRY_MS);
        return;
      }
      tellOfGap();
      if (waiting.length === 0) return;
      rest = Buffer.from(waiting.join(""));
      waiting = [];
      characters = 0;
    }
  }

  /** What is left of it. */
  function put(bytes: Uint8Array): Uint8Array {
    try {
      return bytes.subarray(bytes.length === 0 ? 0 : sink(bytes));
    } catch {
      // Closed, or its disk is full: nobody will read these.
      lost += countLines(bytes);
      told = lost;
      return bytes.subarray(0, 0);
    }
  }

  return { write, flush, lost: () => lost };
}

const STDERR = 2;

/**
 * Where the process logs to, its stderr unless told otherwise. A process has one of these, since two would mix their
 * lines. What waits at its end is written.
 */
export function openStderr(sink: Sink = descriptor(STDERR)): LineWriter {
  const writer = createLineWriter({
    sink,
    gap: (lost) =>
      `${JSON.stringify({ time: new Date().toISOString(), level: "warn", message: "log lines were lost", lost })}\n`,
  });
  process.on("exit", writer.flush);
  return writer;
}

/** Mostly one, and then found at once. */
function countLines(lines: string | Uint8Array): number {
  const next = (from: number) =>
    typeof lines === "string" ? lines.indexOf("\n", from) : lines.indexOf(NEWLINE, from);
  let count = 0;
  for (let at = next(0); at !== -1; at = next(at + 1)) count += 1;
  return count;
}

const NEWLINE = 0x0a;
const POLLOUT = 4;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

/**
 * It stays blocking, since that is a property of the open file, which others share: a terminal or a file of whoever
 * started us.
 */
export function descriptor(fd: number): Sink {
  try {
    const is = fstatSync(fd);
    if (is.isSocket()) return (bytes) => sendToSocket(fd, bytes);
    if (!is.isFile()) return (bytes) => writeToPipe(fd, bytes);
  } catch {
    // It is closed, as writing will say.
  }
  return (bytes) => writeSync(fd, bytes);
}

/** How many bytes it took without waiting. */
function sendToSocket(fd: number, bytes: Uint8Array): number {
  try {
    return syscall("sendto", NR.sendto, fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL);
  } catch (error) {
    if (error instanceof KernelError && (error.code === "EAGAIN" || error.code === "EINTR")) return 0;
    throw error;
  }
}

/** The same for a pipe or a terminal. */
function writeToPipe(fd: number, bytes: Uint8Array): number {
  let at = 0;
  while (at < bytes.length && isWritable(fd)) {
    at += writeSync(fd, bytes, at, Math.min(PIECE_BYTES, bytes.length - at));
  }
  return at;
}

function isWritable(fd: number): boolean {
  const pollfd = new Int32Array(new ArrayBuffer(8));
  pollfd[0] = fd;
  pollfd[1] = POLLOUT;
  // An error or a hang-up counts as well: the write then says which.
  return syscall("poll", NR.poll, pollfd, 1, 0) > 0;
}

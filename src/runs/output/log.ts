import { mkdirSync, readdirSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { codeOf } from "../../errors.ts";
import { spliceToFile } from "../../kernel/fifo.ts";
import {
  createSegment,
  NOTHING,
  openSegment,
  removeSegment,
  segmentFile,
  segmentsIn,
  STREAMS,
  type Stream,
} from "./segment.ts";

/** Of one entry: what a client gets at once, escaped, is six times that at most. */
const MOST_AT_ONCE = 16 * 1024;
/** The bound is kept to by letting go of one part of it. */
const PARTS = 8;

export type RunLog = ReturnType<typeof openRunLog>;

/** A run's output on the disk, for whoever writes it. `maxBytes` bounds all of it; of more, the oldest goes. */
export function openRunLog(dir: string, maxBytes: number) {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const segmentBytes = Math.max(MOST_AT_ONCE, Math.floor(maxBytes / PARTS));
  const firsts = segmentsIn(dir);
  removeStrays(dir, firsts);
  const last = firsts.at(-1);
  let current = last === undefined ? createSegment(dir, 1, NOTHING, {}) : openSegment(dir, last);
  /** The older ones, oldest first. */
  const older = firsts.slice(0, -1).map((first) => ({ first, bytes: bytesOf(dir, first) }));
  let closed = false;

  for (const stream of STREAMS) current.index(stream, modifiedAt(dir, current.first, stream));

  function makeRoom(): void {
    if (current.bytes < segmentBytes || current.entries === 0) return;
    const before = { ...NOTHING };
    for (const stream of STREAMS) before[stream] = current.before[stream] + current.amount(stream);
    const torn = Object.fromEntries(STREAMS.map((stream) => [stream, current.torn(stream)]));
    const next = createSegment(dir, current.first + current.entries, before, torn);
    older.push({ first: current.first, bytes: current.bytes });
    current.close();
    current = next;
    const kept = () => older.reduce((sum, { bytes }) => sum + bytes, 0);
    while (kept() + segmentBytes > maxBytes && letGoOfOldest());
  }

  /** false when there is none but the current one. */
  function letGoOfOldest(): boolean {
    const oldest = older.shift();
    if (oldest !== undefined) removeSegment(dir, oldest.first);
    return oldest !== undefined;
  }

  return {
    dir,
    /** The newest entry's number. */
    get last() {
      return current.first + current.entries - 1;
    },
    segments: (): number[] => [...older.map(({ first }) => first), current.first],

    /** Moves what a pipe holds into the log, a piece of it; how many bytes that was. */
    take(stream: Stream, pipe: number, at: number): number {
      makeRoom();
      const position = current.size(stream);
      const moved = spliceToFile(pipe, current.file(stream), position, MOST_AT_ONCE);
      if (moved === 0) return 0;
      current.grew(stream, moved);
      current.index(stream, at);
      return moved;
    },

    /** What the appliance has to say of the run. */
    say(text: string, at: number): void {
      makeRoom();
      const bytes = Buffer.from(text).subarray(0, MOST_AT_ONCE);
      const written = writeSync(current.file("status"), bytes, 0, bytes.length, current.size("status"));
      current.grew("status", written);
      current.index("status", at, true);
    },

    /** Nothing more comes: a character that is not whole won't be. */
    end(at: number): void {
      for (const stream of STREAMS) current.index(stream, at, true);
    },

    /** On a full disk: whether there is less of it now. */
    shrink: letGoOfOldest,

    close(): void {
      if (!closed) current.close();
      closed = true;
    },
  };
}

/** What a kill in the middle of making or removing a segment has left. */
function removeStrays(dir: string, firsts: readonly number[]): void {
  const known = new Set(firsts);
  for (const name of readdirSync(dir)) {
    if (name.endsWith(".new") || !known.has(Number.parseInt(name, 10)))
      rmSync(join(dir, name), { force: true });
  }
}

function bytesOf(dir: string, first: number): number {
  let bytes = 0;
  for (const kind of ["index", ...STREAMS] as const) bytes += statSync(segmentFile(dir, first, kind)).size;
  return bytes;
}

function modifiedAt(dir: string, first: number, stream: Stream): number {
  return Math.round(statSync(segmentFile(dir, first, stream)).mtimeMs);
}

/** The first numbers of a run's segments when nobody writes to it; none when it never said anything. */
export function closedSegments(dir: string): number[] {
  try {
    return segmentsIn(dir);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return [];
    throw error;
  }
}

import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { KernelError, NR, syscall } from "../kernel/libc.ts";

const PAGE = 4096;
const PIECE = 1024 * 1024;
/** Entries of /proc/PID/pagemap at a time: of 256 MiB. */
const PAGEMAP_PIECE = 64 * 1024 * 8;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

interface Region {
  readonly range: string;
  readonly start: number;
  readonly end: number;
  readonly inode: string;
  readonly shared: boolean;
}

/** How often each text stands in the memory of these processes, and how much was looked through. */
export interface MemorySearch {
  readonly found: number[];
  readonly bytes: number;
}

/**
 * Looks through all memory that processes have, as root. What they have not touched is left so: a sandbox's memory is a
 * file of gigabytes in which a read of a hole would make a page.
 */
export function searchMemory(pids: readonly number[], texts: readonly string[]): MemorySearch {
  const search = createSearch(texts);
  const files = new Set<string>();
  for (const pid of pids) {
    for (const region of regionsOf(pid)) {
      if (region.shared) {
        // The same memory in several processes, or several times in one, is looked through once.
        if (files.has(region.inode)) continue;
        files.add(region.inode);
        withFile(`/proc/${pid}/map_files/${region.range}`, (fd) => searchData(fd, search));
      } else withFile(`/proc/${pid}/mem`, (fd) => searchPresent(pid, fd, region, search));
    }
  }
  return { found: search.found, bytes: search.state.bytes };
}

type Search = ReturnType<typeof createSearch>;

function createSearch(texts: readonly string[]) {
  const needles = texts.map((text) => Buffer.from(text));
  const found = texts.map(() => 0);
  const state = { bytes: 0 };
  return {
    found,
    state,
    overlap: Math.max(...needles.map(({ length }) => length)) - 1,
    look(bytes: Buffer): void {
      state.bytes += bytes.length;
      for (const [at, needle] of needles.entries())
        if (bytes.includes(needle)) found[at] = (found[at] ?? 0) + 1;
    },
  };
}

function regionsOf(pid: number): Region[] {
  return readFileSync(`/proc/${pid}/maps`, "utf8")
    .split("\n")
    .flatMap((line) => {
      const [range = "", mode = "", , device = "", inode = "0", name = ""] = line.split(/\s+/);
      if (!mode.startsWith("r") || name.startsWith("[v")) return [];
      const [start = 0, end = 0] = range.split("-").map((word) => Number.parseInt(word, 16));
      const shared = inode !== "0" && mode[3] === "s";
      // The image: on the disk, and older than what is looked for.
      if (shared && name.startsWith("/") && !name.startsWith("/memfd:") && name !== "/dev/zero") return [];
      return [{ range, start, end, inode: `${device} ${inode}`, shared }];
    });
}

function withFile(path: string, use: (fd: number) => void): void {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch {
    // Unmapped, or gone, since it was listed.
    return;
  }
  try {
    use(fd);
  } finally {
    closeSync(fd);
  }
}

/** Of a file in memory, the parts that are there. */
function searchData(fd: number, search: Search): void {
  for (let at = seek(fd, 0, SEEK_DATA); at !== null; at = seek(fd, at, SEEK_DATA)) {
    const end = seek(fd, at, SEEK_HOLE) ?? at;
    searchRange(fd, at, end, search);
    at = end;
  }
}

function seek(fd: number, from: number, how: number): number | null {
  try {
    return syscall("lseek", NR.lseek, fd, from, how);
  } catch (error) {
    if (error instanceof KernelError) return null;
    throw error;
  }
}

function searchPresent(pid: number, fd: number, { start, end }: Region, search: Search): void {
  withFile(`/proc/${pid}/pagemap`, (pagemap) => {
    const entries = Buffer.alloc(PAGEMAP_PIECE);
    let run: number | null = null;
    for (let at = start; at < end;) {
      const wanted = Math.min(PAGEMAP_PIECE, ((end - at) / PAGE) * 8);
      const got = readSync(pagemap, entries, 0, wanted, (at / PAGE) * 8);
      if (got === 0) break;
      for (let entry = 0; entry < got; entry += 8, at += PAGE) {
        // Present, or swapped out.
        const isThere = ((entries[entry + 7] ?? 0) & 0xc0) !== 0;
        if (isThere && run === null) run = at;
        if (isThere || run === null) continue;
        searchRange(fd, run, at, search);
        run = null;
      }
    }
    if (run !== null) searchRange(fd, run, end, search);
  });
}

function searchRange(fd: number, start: number, end: number, search: Search): void {
  const piece = Buffer.alloc(Math.min(PIECE, end - start) + search.overlap);
  for (let at = start; at < end; at += PIECE) {
    const wanted = Math.min(piece.length, end - at);
    try {
      search.look(piece.subarray(0, readSync(fd, piece, 0, wanted, at)));
    } catch {
      // Of a device, or unmapped meanwhile.
    }
  }
}

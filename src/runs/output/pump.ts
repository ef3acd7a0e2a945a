import { codeOf } from "../../errors.ts";
import { createEpoll } from "../../kernel/epoll.ts";

/** Looks at the pipes so often: while something comes, for a while after, and when all is quiet. */
const BUSY_MS = 1;
const AWAKE_MS = 4;
const QUIET_MS = 10;
const AWAKE_FOR_MS = 2000;
/** How long one look may take what there is, before the rest of the process has its turn. */
const SLICE_MS = 4;
/** Out of one pipe in one look; so with BUSY_MS and what a look takes, the most that one run writes is some 60 MB/s. */
const MOST_A_LOOK = 128 * 1024;
/** Before a pipe whose output could not be stored is looked at again. */
const FAILED_MS = 500;

export interface Source {
  readonly fd: number;
  /** Stores a piece of what there is; 0 when there is nothing. */
  readonly take: () => number;
  readonly failed: (error: unknown) => void;
}

/**
 * Moves what runs write from their pipes to wherever their sources put it. One descriptor of the kernel's tells which have
 * something; it is asked at an interval, since the event loop of Bun takes no descriptor without reading from it. With
 * no source nothing is asked.
 */
export function createPump() {
  const epoll = createEpoll();
  const sources = new Map<number, Source>();
  /** Since when it does not work. */
  const failing = new Map<number, number>();
  let timer: ReturnType<typeof setTimeout> | null = null;
  let lastSeen = 0;

  function look(): void {
    timer = null;
    const began = performance.now();
    let seen = false;
    for (const fd of epoll.readable()) {
      const source = sources.get(fd);
      if (source === undefined || (failing.get(fd) ?? -FAILED_MS) + FAILED_MS > began) continue;
      seen = drain(source) || seen;
      if (performance.now() - began > SLICE_MS) break;
    }
    if (seen) lastSeen = began;
    schedule(seen ? BUSY_MS : began - lastSeen < AWAKE_FOR_MS ? AWAKE_MS : QUIET_MS);
  }

  function drain(source: Source): boolean {
    try {
      let moved = 0;
      while (moved < MOST_A_LOOK) {
        const piece = source.take();
        if (piece === 0) break;
        moved += piece;
      }
      failing.delete(source.fd);
      return moved > 0;
    } catch (error) {
      failing.set(source.fd, performance.now());
      source.failed(error);
      return false;
    }
  }

  function schedule(ms: number): void {
    if (timer === null && sources.size > 0) timer = setTimeout(look, ms);
  }

  return {
    add(source: Source): void {
      sources.set(source.fd, source);
      epoll.add(source.fd);
      lastSeen = performance.now();
      schedule(BUSY_MS);
    },

    /** Before its descriptor is closed. */
    remove(fd: number): void {
      if (!sources.delete(fd)) return;
      failing.delete(fd);
      epoll.remove(fd);
    },

    close(): void {
      if (timer !== null) clearTimeout(timer);
      sources.clear();
      epoll.close();
    },
  };
}

/** Whether it was for want of room. */
export const isFull = (error: unknown): boolean => ["ENOSPC", "EDQUOT"].includes(codeOf(error) ?? "");

import { codeOf } from "../../errors.ts";
import { createEpoll } from "../../kernel/epoll.ts";
import { createWriteWatch } from "../../kernel/write-watch.ts";
import type { Log } from "../../log.ts";

/** Between two looks while something comes: what is written meanwhile is one entry, and others have their turn. */
const BUSY_MS = 2;
/** How long one look may take what there is: runs that write without end get half of this process at most. */
const SLICE_MS = 2;
/** Out of one pipe in one look, so that it gets some 25 MB/s at most. */
const MOST_A_LOOK = 64 * 1024;
/** Before a pipe whose output could not be stored is looked at again, and before a look of which nobody told. */
const RETRY_MS = 500;

export interface Source {
  readonly fd: number;
  /** Stores a piece of what there is; 0 when there is nothing. */
  readonly take: () => number;
  readonly failed: (error: unknown) => void;
}

/** Moves what runs write from their pipes to wherever their sources put it. With no source it does nothing at all. */
export function createPump(log: Log) {
  const epoll = createEpoll();
  const watch = createWriteWatch();
  const sources = new Map<number, Source>();
  /** Since when it does not work. */
  const failing = new Map<number, number>();
  /** Which of those that have something is first, since time may not do for all of them. */
  let turn = 0;
  let closed = false;
  let listening = false;
  let emptying: Promise<void> | null = null;
  let timer: ReturnType<typeof setInterval> | null = null;

  /** Whether there was something, so that there may be more. */
  function look(): boolean {
    const began = performance.now();
    let seen = false;
    const ready = closed ? [] : epoll.readable();
    for (const _ of ready) {
      turn += 1;
      const source = sources.get(ready[turn % ready.length] ?? -1);
      if (source === undefined || (failing.get(source.fd) ?? -RETRY_MS) + RETRY_MS > began) continue;
      seen = drain(source) || seen;
      if (performance.now() - began > SLICE_MS) break;
    }
    return seen;
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

  /** Until the pipes are empty. */
  async function empty(): Promise<void> {
    emptying ??= (async () => {
      while (look()) await Bun.sleep(BUSY_MS);
    })().finally(() => void (emptying = null));
    return emptying;
  }

  async function listen(): Promise<void> {
    if (listening) return;
    listening = true;
    try {
      while (sources.size > 0) {
        await watch.next();
        await empty();
      }
    } catch (error) {
      log.error("nobody tells of the output of runs; it is looked for twice a second", { cause: error });
    }
    listening = false;
    if (closed) watch.close();
  }

  return {
    add(source: Source): void {
      sources.set(source.fd, source);
      epoll.add(source.fd);
      watch.add(source.fd);
      timer ??= setInterval(() => void empty(), RETRY_MS);
      void listen();
      void empty();
    },

    /** Before its descriptor is closed. */
    remove(fd: number): void {
      if (!sources.delete(fd)) return;
      failing.delete(fd);
      epoll.remove(fd);
      watch.remove(fd);
      if (sources.size > 0 || timer === null) return;
      clearInterval(timer);
      timer = null;
    },

    /** Once all are removed. */
    close(): void {
      closed = true;
      epoll.close();
      if (!listening) watch.close();
    },
  };
}

/** Whether it was for want of room. */
export const isFull = (error: unknown): boolean => ["ENOSPC", "EDQUOT"].includes(codeOf(error) ?? "");

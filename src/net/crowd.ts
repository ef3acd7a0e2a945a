import { readdirSync, readFileSync, statSync } from "node:fs";
import { connections, endConnection } from "../kernel/connections.ts";
import type { Log } from "../log.ts";
import { sourceOf } from "./source.ts";

/** Descriptors counted on at most: each connection takes memory too, some 10 KiB. */
const MOST = 65_536;
/** Of the descriptors: what is beyond is for files, sandboxes, the admin socket, and who comes until the next look. */
const FULL = 3 / 4;
/** What connections may keep then. */
const KEPT = 5 / 8;
const LOOK_MS = 100;
/** An attack must not fill the log. */
const TELL_MS = 10_000;

interface CrowdParts {
  readonly log: Log;
  /** Of one source, however few others there are. */
  readonly mostOfOne?: number;
}

/**
 * Keeps clients from using up this process's descriptors. Bun takes every connection, and where no descriptor is left
 * it tries again at once, for ever, while files can't be opened and the operator can't get in. So before that, whoever
 * has the most connections loses the most.
 */
export function startCrowd({ log, mostOfOne = Infinity }: CrowdParts) {
  const limit = Math.min(MOST, descriptorLimit());
  const told = { at: Number.NEGATIVE_INFINITY, ended: 0 };

  function look(): void {
    const open = openDescriptors();
    if (open <= Math.min(limit * FULL, mostOfOne)) return;
    const all = connections().map(({ fd, address }) => ({ fd, source: sourceOf(address).source }));
    const surplus = beyondFair(all, open > limit * FULL ? Math.floor(limit * KEPT) : Infinity, mostOfOne);
    if (surplus.length === 0) return;
    for (const { fd } of surplus) endConnection(fd);
    told.ended += surplus.length;
    const now = performance.now();
    if (now < told.at + TELL_MS) return;
    const most = surplus[0]?.source ?? null;
    log.warn("there were too many connections: who had the most lost some", { ended: told.ended, most });
    Object.assign(told, { at: now, ended: 0 });
  }

  const timer = setInterval(() => {
    try {
      look();
    } catch (error) {
      // None was left even for looking: some are freed whenever a connection has been idle for long enough.
      log.error("connections could not be counted", { cause: error });
    }
  }, LOOK_MS).unref();
  return { stop: () => clearInterval(timer) };
}

/** A connection, and what its client counts as. */
interface Counted {
  readonly fd: number;
  readonly source: string;
}

/**
 * What each source has beyond an equal share of `most`, when who has less leaves the rest to the others, and beyond what one
 * may have. Largest first.
 */
export function beyondFair(all: readonly Counted[], most: number, ofOne = Infinity): Counted[] {
  const bySource = Map.groupBy(all, ({ source }) => source);
  const sources = [...bySource.values()].toSorted((a, b) => a.length - b.length);
  let room = most;
  const surplus = sources.map((mine, at) => {
    const share = Math.min(ofOne, Math.floor(room / (sources.length - at)));
    room -= Math.min(mine.length, share);
    return mine.slice(share);
  });
  return surplus.toReversed().flat();
}

function openDescriptors(): number {
  // Since Linux 6.2 this is their number; before, 0.
  return statSync("/proc/self/fd").size || readdirSync("/proc/self/fd").length;
}

function descriptorLimit(): number {
  const soft = /^Max open files +(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
  return soft === undefined ? MOST : Number(soft);
}

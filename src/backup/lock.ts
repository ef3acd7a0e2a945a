import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import { z } from "zod";
import { StaleVersion, type BlobStore } from "../blobs/store.ts";
import { AppError } from "../errors.ts";
import { statOf, unlessGone } from "../kernel/process.ts";
import { LOCK } from "./layout.ts";

const RENEW_EVERY_MS = 20_000;
/** A holder that has not renewed it for so long is gone. */
const LEASE_MS = 90_000;
const LOOK_EVERY_MS = 1000;

/** A process, so that another on the same machine can tell whether it still is. */
const holderSchema = z.object({
  host: z.string(),
  boot: z.string(),
  /** Its pid namespace. */
  pids: z.string(),
  pid: z.int(),
  /** When it began, in the kernel's ticks: a pid comes again. */
  began: z.string(),
});
type Holder = z.infer<typeof holderSchema>;

/** `id` and `renewal` make each version another: a tag may be no more than a hash of the content. */
const lockSchema = z.object({ holder: holderSchema.nullable(), id: z.string(), renewal: z.int() });

/** The right to change what is in a target. */
export interface TargetLock {
  /** Throws when it was lost: another took this process for dead. Before what can't be taken back. */
  check(): Promise<void>;
  release(): Promise<void>;
}

export interface LockTimes {
  readonly renewEveryMs: number;
  readonly leaseMs: number;
  readonly lookEveryMs: number;
}

const TIMES: LockTimes = {
  renewEveryMs: RENEW_EVERY_MS,
  leaseMs: LEASE_MS,
  lookEveryMs: LOOK_EVERY_MS,
};

/**
 * One process at a time adds to a target or prunes it. A holder that was killed on this machine is found dead at once;
 * one elsewhere once it has not renewed its lock for a while, by this machine's clock alone.
 */
export async function lockTarget(
  store: Pick<BlobStore, "read" | "replace">,
  waiting: (who: string) => void,
  times: LockTimes = TIMES,
): Promise<TargetLock> {
  const holder = thisProcess();
  const id = crypto.randomUUID();
  let renewal = 0;
  const version = (holder: Holder | null) => Buffer.from(JSON.stringify({ holder, id, renewal: renewal++ }));

  let tag = await store.replace(LOCK, version(holder), await takeable(store, waiting, times)).catch(refuse);
  let turn: Promise<unknown> = Promise.resolve();
  let lost = false;

  /** Its own renewals take turns, since each goes by the tag of the one before. */
  async function inTurn(work: () => Promise<void>): Promise<void> {
    const before = turn;
    const next = (async () => {
      await before.catch(() => {});
      if (lost) throw lostLock();
      try {
        await work();
      } catch (error) {
        if (!(error instanceof StaleVersion)) throw error;
        lost = true;
        throw lostLock();
      }
    })();
    turn = next;
    return next;
  }

  const renew = () =>
    inTurn(async () => {
      tag = await store.replace(LOCK, version(holder), tag);
    });

  // What fails here is tried again, and asked once more before anything depends on it.
  const timer = setInterval(() => void renew().catch(() => {}), times.renewEveryMs);

  return {
    check: renew,
    async release() {
      clearInterval(timer);
      await inTurn(async () => {
        await store.replace(LOCK, version(null), tag);
      }).catch(() => {});
    },
  };
}

/** The tag of a lock that may be taken, null where there is none yet. Waits to see whether its holder is alive. */
async function takeable(
  store: Pick<BlobStore, "read">,
  waiting: (who: string) => void,
  { leaseMs, lookEveryMs }: LockTimes,
): Promise<string | null> {
  const first = await look(store);
  if (first === null || first.holder === null || isDead(first.holder)) return first?.tag ?? null;
  const { host, pid } = first.holder;
  const who = `process ${pid} on ${host}`;
  waiting(who);
  const until = performance.now() + leaseMs;
  while (performance.now() < until) {
    await Bun.sleep(lookEveryMs);
    const now = await look(store);
    if (now === null || now.holder === null || isDead(now.holder)) return now?.tag ?? null;
    if (now.tag !== first.tag) throw busy(who);
  }
  return first.tag;
}

async function look(store: Pick<BlobStore, "read">) {
  const version = await store.read(LOCK);
  if (version === null) return null;
  const text = Buffer.from(version.bytes).toString();
  // Of a form that this one does not know: somebody holds it.
  const unknown = { host: "another host", boot: "", pids: "", pid: 0, began: "" };
  const { holder } = lockSchema.catch({ holder: unknown, id: "", renewal: 0 }).parse(jsonOf(text));
  return { holder, tag: version.tag };
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function refuse(error: unknown): never {
  if (error instanceof StaleVersion) throw busy("another process");
  throw error;
}

function busy(who: string): AppError {
  return new AppError(
    "busy",
    `Another backup, or the pruning of old ones, is under way there (${who}); try again once it has ended.`,
  );
}

function lostLock(): AppError {
  return new AppError(
    "unavailable",
    "Another process has taken over the backup's target, since this one did not answer for long; try again.",
  );
}

function thisProcess(): Holder {
  return {
    host: hostname(),
    boot: readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim(),
    pids: readlinkSync("/proc/self/ns/pid"),
    pid: process.pid,
    began: beganAt(process.pid),
  };
}

function isDead({ boot, pids, pid, began }: Holder): boolean {
  const own = thisProcess();
  if (boot !== own.boot || pids !== own.pids) return false;
  return beganAt(pid) !== began;
}

/** "" for one that is gone. */
function beganAt(pid: number): string {
  return unlessGone(() => `${statOf(pid).startTime}`) ?? "";
}

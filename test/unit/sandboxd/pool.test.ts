import { expect, test } from "bun:test";
import type { Log } from "../../../src/log.ts";
import { ApiAway } from "../../../src/sandboxd/connection.ts";
import { createPool } from "../../../src/sandboxd/pool.ts";

/** Boots that end when the test says so. */
function boots() {
  const open: { finish(): void; fail(error: Error): void }[] = [];
  let made = 0;
  let most = 0;
  return {
    boot: () =>
      new Promise<string>((resolve, reject) => {
        made += 1;
        const name = `spare-${made}`;
        const leave = () => open.splice(open.indexOf(entry), 1);
        const entry = {
          finish: () => {
            leave();
            resolve(name);
          },
          fail: (error: Error) => {
            leave();
            reject(error);
          },
        };
        open.push(entry);
        most = Math.max(most, open.length);
      }),
    open,
    made: () => made,
    most: () => most,
  };
}

function logLines() {
  const lines: string[] = [];
  const keep = (message: string) => void lines.push(message);
  const log: Log = { info() {}, warn: keep, error: keep };
  return { log, lines };
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 5));
const quick = { refillDelayMs: 1, backoffMs: { first: 1, most: 4 } };

test("it fills up to its target, never more boots at a time than allowed, and refills after a take", async () => {
  const { boot, open, made, most } = boots();
  const pool = createPool({ target: 3, parallel: 2, boot, log: logLines().log, ...quick });
  pool.wake();
  expect(open.length).toBe(2);
  while (pool.status().ready < 3) {
    open[0]?.finish();
    await settle();
  }
  expect([made(), most()]).toEqual([3, 2]);
  expect(await pool.take()).toEqual({ spare: "spare-1", fromPool: true });
  expect(await pool.take()).toEqual({ spare: "spare-2", fromPool: true });
  await settle();
  expect(open.length).toBe(2);
  while (open.length > 0) open[0]?.finish();
  await settle();
  expect(pool.status()).toEqual({ target: 3, ready: 3, booting: 0 });
  await pool.stop();
});

test("who waits gets the next that boots, whoever it was begun for, in order", async () => {
  const { boot, open, made } = boots();
  const pool = createPool({ target: 1, parallel: 2, boot, log: logLines().log, ...quick });
  pool.wake();
  const first = pool.take();
  const second = pool.take();
  expect(open.length).toBe(2);
  open[1]?.finish();
  expect(await first).toEqual({ spare: "spare-2", fromPool: false });
  open[0]?.finish();
  expect(await second).toEqual({ spare: "spare-1", fromPool: false });
  await settle();
  open[0]?.finish();
  await settle();
  expect([made(), pool.status().ready]).toEqual([3, 1]);
  await pool.stop();
});

test("a failed boot is told to one who waits and logged; the others still get theirs", async () => {
  const { boot, open } = boots();
  const { log, lines } = logLines();
  const pool = createPool({ target: 0, parallel: 1, boot, log, ...quick });
  const outcomes = Promise.allSettled([pool.take(), pool.take()]);
  open[0]?.fail(new Error("no disk"));
  await settle();
  open[0]?.finish();
  expect((await outcomes).map(({ status }) => status)).toEqual(["rejected", "fulfilled"]);
  expect(lines).toEqual(["a sandbox did not boot"]);
  await pool.stop();
});

test("with nobody waiting, failures are tried again after a pause; an absent api is no failure", async () => {
  const { boot, open, made } = boots();
  const { log, lines } = logLines();
  const pool = createPool({
    target: 1,
    parallel: 1,
    boot,
    log,
    refillDelayMs: 1,
    backoffMs: { first: 60_000, most: 60_000 },
  });
  pool.wake();
  open[0]?.fail(new ApiAway(new Error("ENOENT")));
  await settle();
  expect([open.length, lines]).toEqual([0, []]);
  pool.wake();
  open[0]?.fail(new Error("no disk"));
  await settle();
  expect([open.length, made(), lines.length]).toEqual([0, 2, 1]);
  // Someone who waits does not wait for the pause.
  const taken = pool.take();
  open[0]?.finish();
  expect(await taken).toEqual({ spare: "spare-3", fromPool: false });
  open[0]?.finish();
  await pool.stop();
});

test("a spare that is gone is replaced, and only once", async () => {
  const { boot, open } = boots();
  const pool = createPool({ target: 1, parallel: 1, boot, log: logLines().log, ...quick });
  pool.add("adopted");
  pool.wake();
  expect(open.length).toBe(0);
  expect([pool.forget("adopted"), pool.forget("adopted")]).toEqual([true, false]);
  expect(open.length).toBe(1);
  open[0]?.finish();
  await settle();
  expect(pool.status().ready).toBe(1);
  await pool.stop();
});

test("a stop refuses who waits and starts nothing more", async () => {
  const { boot, open, made } = boots();
  const pool = createPool({ target: 2, parallel: 1, boot, log: logLines().log, ...quick });
  const waiting = pool.take().catch((error: unknown) => String(error));
  const stopped = pool.stop();
  expect(await waiting).toContain("stopping");
  open[0]?.finish();
  await stopped;
  expect(made()).toBe(1);
  expect(await pool.take().catch((error: unknown) => String(error))).toContain("stopping");
});

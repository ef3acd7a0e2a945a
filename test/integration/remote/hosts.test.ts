import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createLocalStore } from "../../../src/blobs/local.ts";
import type { BlobStore } from "../../../src/blobs/store.ts";
import { AppError } from "../../../src/errors.ts";
import { startHost, type Host } from "../../fixtures/remote.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

setDefaultTimeout(60_000);
const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());

const ROUNDS = 4;
const ROUND_MS = 1_000;
const chance = (share: number) => Math.random() < share;
const pick = <T>(from: readonly T[]): T => from[Math.floor(Math.random() * from.length)]!;

/** A bucket far away: slow, and now and then a request or its answer is lost, or the request comes late. */
function distant(store: BlobStore): BlobStore {
  const unsure = async <T>(work: () => Promise<T>): Promise<T> => {
    await Bun.sleep(Math.random() * 3);
    if (chance(0.02)) {
      if (chance(0.5)) setTimeout(() => void work().catch(() => {}), Math.random() * 30);
      throw new AppError("unavailable", "The request was lost.");
    }
    const result = await work();
    await Bun.sleep(Math.random() * 3);
    if (chance(0.02)) throw new AppError("unavailable", "The answer was lost.");
    return result;
  };
  return {
    ...store,
    put: async (...args) => unsure(async () => store.put(...args)),
    get: async (...args) => unsure(async () => store.get(...args)),
    read: async (...args) => unsure(async () => store.read(...args)),
    tag: async (...args) => unsure(async () => store.tag(...args)),
    replace: async (...args) => unsure(async () => store.replace(...args)),
  };
}

function command(live: string, file: string, content: string): void {
  const [dir] = file.split("/");
  if (dir !== undefined && dir !== file && !existsSync(join(live, dir))) mkdirSync(join(live, dir));
  writeFileSync(join(live, file), content);
}

/**
 * One client with one file, which counts up: through any host it may see only its last acknowledged number, or a later
 * one of which it was not told what became. Once it has seen one, it may see none before that.
 */
async function client(file: string, hosts: readonly Host[], until: number): Promise<number> {
  let floor = 0;
  let next = 0;
  let acknowledged = 0;
  while (Date.now() < until) {
    const host = pick(hosts);
    try {
      if (chance(0.5)) {
        const number = ++next;
        const content = String(number);
        if (chance(0.3)) await host.exec((live) => command(live, file, content));
        else await host.write(file, content);
        floor = number;
        acknowledged += 1;
      } else {
        const seen = Number(await host.read(file));
        // A number that nobody wrote, or one of before, is what must never be.
        expect(seen).toBeGreaterThanOrEqual(floor);
        expect(seen).toBeLessThanOrEqual(next);
        floor = seen;
      }
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      if (error.code === "not_found") expect(floor).toBe(0);
      // What a lost host refuses is tried at another.
      else if (error.code !== "unavailable") throw error;
      await Bun.sleep(1);
    }
  }
  return acknowledged;
}

test("of two hosts on one bucket none loses, doubles or goes back on what was acknowledged", async () => {
  const total = { acknowledged: 0, restarts: 0 };
  for (let round = 0; round < ROUNDS; round++) {
    const dir = join(scratch.path, `r${round}`);
    mkdirSync(dir);
    const bucket = createLocalStore(join(dir, "bucket"));
    using one = startHost(join(dir, "one"), distant(bucket));
    using two = startHost(join(dir, "two"), distant(bucket), { id: one.id });
    const hosts = [one, two];
    const files = ["a", "b", "d/c", "d/e"];
    for (let phase = 0; phase < 4; phase++) {
      const until = Date.now() + ROUND_MS / 4;
      const done = await Promise.all(files.map(async (file) => client(`p${phase}-${file}`, hosts, until)));
      total.acknowledged += done.reduce((sum, one) => sum + one, 0);
      // As killed, and started again: with its disk, or with an empty one.
      const down = pick(hosts);
      if (chance(0.5)) rmSync(join(down.dir, "volumes"), { recursive: true, force: true });
      down.restart();
      total.restarts += 1;
    }
  }
  expect(total.acknowledged).toBeGreaterThan(10);
});

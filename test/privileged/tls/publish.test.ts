import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { roleUser } from "../../../src/kernel/users.ts";
import { followPair, publishPair, refreshPair } from "../../../src/tls/publish.ts";
import { readPublishedPair } from "../../../src/tls/published.ts";
import { makeCertificate } from "../../fixtures/certificate.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { ensureUsers } from "../../fixtures/users.ts";
import { until } from "../../fixtures/until.ts";

const scratch = scratchDirectory();
const dir = scratch.path;
const one = makeCertificate("one", { dir });
const two = makeCertificate("two", { dir });
const files = { cert: join(dir, "cert.pem"), key: join(dir, "key.pem") };
const path = join(dir, "published", "tls.json");
beforeAll(() => {
  ensureUsers();
  mkdirSync(join(dir, "published"));
});
afterAll(() => scratch[Symbol.dispose]());

function place(cert: typeof one, key = cert): void {
  copyFileSync(cert.files.cert, files.cert);
  copyFileSync(key.files.key, files.key);
}

test("for root and api's group alone, whole, and nothing beside it", async () => {
  place(one);
  expect(await refreshPair(path, files)).toBeNull();
  expect(readPublishedPair(path)).toEqual({ files, pair: { cert: one.cert, key: one.key }, fault: null });
  const { uid, gid, mode } = statSync(path);
  expect({ uid, gid, mode: mode & 0o777 }).toEqual({ uid: 0, gid: roleUser("cofferdam").gid, mode: 0o640 });
  expect(readdirSync(join(dir, "published"))).toEqual(["tls.json"]);
});

test("bad files leave the pair before, with what is wrong; without one there is none", async () => {
  place(one);
  await refreshPair(path, files);
  place(two, one);
  const fault = await refreshPair(path, files);
  expect(fault).toContain(`"${files.key}": it is not the key of the certificate in ${files.cert}`);
  expect(readPublishedPair(path)).toEqual({ files, pair: { cert: one.cert, key: one.key }, fault });
  publishPair(path, null);
  expect(readPublishedPair(path)).toBeNull();
  expect(await refreshPair(path, files)).toBe(fault);
  expect(readPublishedPair(path)).toEqual({ files, pair: null, fault });
});

test("files that change are followed, and never half of them is published", async () => {
  place(one);
  await refreshPair(path, files);
  const errors: unknown[] = [];
  const log = { info() {}, warn() {}, error: (...said: unknown[]) => void errors.push(said) };
  const stop = followPair({ path, log, everyMs: 10 });
  const seen = new Set<string>();
  const watching = setInterval(() => {
    const pair = readPublishedPair(path)?.pair;
    const known = [one, two].find(({ cert, key }) => cert === pair?.cert && key === pair.key);
    seen.add(known === undefined ? "a mixture" : known === one ? "one" : "two");
  }, 1);
  for (const next of [two, one, two]) {
    // As certbot does it, with time in between.
    copyFileSync(next.files.cert, files.cert);
    await Bun.sleep(50);
    copyFileSync(next.files.key, files.key);
    await until(() => readPublishedPair(path)?.pair?.cert === next.cert);
  }
  expect(errors).toEqual([]);

  rmSync(files.key);
  await until(() => readPublishedPair(path)?.fault !== null);
  await Bun.sleep(100);
  // Said once, not each time.
  expect(errors).toHaveLength(1);
  expect(readPublishedPair(path)?.pair?.cert).toBe(two.cert);
  place(one);
  await until(() => readPublishedPair(path)?.fault === null);
  expect(readPublishedPair(path)?.pair?.cert).toBe(one.cert);

  clearInterval(watching);
  stop();
  expect([...seen].toSorted()).toEqual(["one", "two"]);
  place(two);
  await Bun.sleep(100);
  expect(readPublishedPair(path)?.pair?.cert).toBe(one.cert);
});

test("with TLS off there is nothing to follow", async () => {
  publishPair(path, null);
  const stop = followPair({ path, log: { info() {}, warn() {}, error() {} }, everyMs: 5 });
  await Bun.sleep(50);
  expect(readPublishedPair(path)).toBeNull();
  stop();
});

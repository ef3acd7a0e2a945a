import { expect, test } from "bun:test";
import { StaleVersion, type BlobStore } from "../../../src/blobs/store.ts";
import { AppError } from "../../../src/errors.ts";
import { namespaceId } from "../../../src/ids.ts";
import { ClaimLost, openClaim } from "../../../src/remote/claim.ts";
import { createHeadCodec, headKey } from "../../../src/remote/head.ts";
import { pathKey } from "../../../src/remote/delta.ts";

const namespace = namespaceId.make();
const codec = createHeadCodec(namespace, { derive: (_, bytes = 32) => new Uint8Array(bytes).fill(7) });
const nothing = { base: null, delta: new Map() };

/** A bucket whose next replacements can be told what becomes of them. */
function bucket() {
  const versions: { bytes: Uint8Array; tag: string }[] = [];
  const fates: ("refused before" | "answer lost")[] = [];
  const away = { now: false };
  const current = () => versions.at(-1) ?? null;
  const reach = () => {
    if (away.now) throw new AppError("unavailable", "The bucket is away.");
  };
  const store: Pick<BlobStore, "read" | "replace" | "tag"> = {
    read: async () => (reach(), current()),
    tag: async () => (reach(), current()?.tag ?? null),
    replace: async (key, bytes, expected) => {
      const fate = fates.shift();
      reach();
      if (fate === "refused before") throw new AppError("unavailable", "The connection was cut.");
      if ((current()?.tag ?? null) !== expected) throw new StaleVersion(key);
      versions.push({ bytes, tag: `v${versions.length + 1}` });
      if (fate === "answer lost") throw new AppError("unavailable", "The connection was cut.");
      return current()!.tag;
    },
  };
  return { store, versions, fates, away, open: async () => codec.open(current()!.bytes) };
}

const claimFrom = ({ store }: ReturnType<typeof bucket>, host: string) =>
  openClaim({ store, namespace, codec, host, run: crypto.randomUUID() });

test("each claim counts the epoch up, and keeps what is there", async () => {
  const there = bucket();
  const first = await claimFrom(there, "one");
  expect(first.before).toBeNull();
  const delta = new Map([[pathKey([Buffer.from("gone")]), null]]);
  await first.put({ base: null, delta });
  const second = await claimFrom(there, "two");
  expect(second.before).toMatchObject({ epoch: 1, host: "one", sequence: 1, delta });
  expect(await there.open()).toMatchObject({ epoch: 2, host: "two", sequence: 1, delta });
});

test("who lost the claim is refused, whatever it does next", async () => {
  const there = bucket();
  const first = await claimFrom(there, "one");
  await first.check();
  const second = await claimFrom(there, "two");
  expect(first.put(nothing)).rejects.toThrow(ClaimLost);
  expect(first.check()).rejects.toThrow(ClaimLost);
  expect(first.lost).toBe(true);
  await second.put(nothing);
  await second.check();
  expect(there.versions).toHaveLength(3);
});

test("a reader finds out without writing anything", async () => {
  const there = bucket();
  const first = await claimFrom(there, "one");
  await claimFrom(there, "two");
  expect(first.check()).rejects.toThrow(ClaimLost);
});

test("a version whose answer was lost is found in the bucket, and is one commit", async () => {
  const there = bucket();
  const claim = await claimFrom(there, "one");
  there.fates.push("answer lost");
  await claim.put(nothing);
  expect(claim.head.sequence).toBe(1);
  await claim.check();
  await claim.put(nothing);
  expect(there.versions).toHaveLength(3);
});

test("what never arrived is not there, and the next commit goes on from before", async () => {
  const there = bucket();
  const claim = await claimFrom(there, "one");
  there.fates.push("refused before");
  expect(claim.put(nothing)).rejects.toThrow("The connection was cut.");
  expect(claim.head.sequence).toBe(0);
  await claim.put(nothing);
  expect((await there.open()).sequence).toBe(1);
});

test("a version that arrived while the bucket could not be asked is known again as our own", async () => {
  const there = bucket();
  const claim = await claimFrom(there, "one");
  const { store } = there;
  const replace = store.replace.bind(store);
  store.replace = async (...args) => {
    await replace(...args);
    there.away.now = true;
    throw new AppError("unavailable", "The connection was cut.");
  };
  expect(claim.put(nothing)).rejects.toThrow("The connection was cut.");
  store.replace = replace;
  there.away.now = false;
  const delta = new Map([[pathKey([Buffer.from("later")]), null]]);
  await claim.put({ base: null, delta });
  expect(await there.open()).toMatchObject({ sequence: 1, delta });
});

test("of two that claim at once one has it in the end, and the other finds out", async () => {
  const there = bucket();
  const both = await Promise.all([claimFrom(there, "one"), claimFrom(there, "two")]);
  const kept = await Promise.allSettled(both.map(async (claim) => claim.check()));
  expect(kept.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  expect(both.filter(({ lost }) => lost)).toHaveLength(1);
});

test("who claims from one that is busy writing gets it, and misses nothing of that", async () => {
  const there = bucket();
  const one = await claimFrom(there, "one");
  const read = there.store.read.bind(there.store);
  let interfering = 3;
  there.store.read = async (...args) => {
    const found = await read(...args);
    if (interfering-- > 0) await one.put(nothing);
    return found;
  };
  const two = await claimFrom(there, "two");
  expect(two.before).toMatchObject({ host: "one", sequence: 3 });
  expect(one.put(nothing)).rejects.toThrow(ClaimLost);
});

test("who had it before does not take it back", async () => {
  const there = bucket();
  const run = crypto.randomUUID();
  const open = async (again: boolean) =>
    openClaim({ store: there.store, namespace, codec, host: "one", run, again });
  await open(false);
  await open(true);
  await claimFrom(there, "two");
  expect(open(true)).rejects.toThrow(ClaimLost);
});

test("a head that was deleted is not written anew", async () => {
  const there = bucket();
  const claim = await claimFrom(there, "one");
  there.versions.length = 0;
  expect(claim.put(nothing)).rejects.toThrow(ClaimLost);
  expect(there.versions).toHaveLength(0);
});

test("a head of another namespace, or a changed one, is refused", async () => {
  const bytes = await codec.seal((await claimFrom(bucket(), "one")).head);
  const key = { derive: (_: string, length = 32) => new Uint8Array(length).fill(7) };
  const other = createHeadCodec(namespaceId.make(), key);
  expect(other.open(bytes)).rejects.toThrow("is damaged");
  bytes[20]! ^= 1;
  expect(codec.open(bytes)).rejects.toThrow(`The bucket's ${headKey(namespace)} is damaged.`);
});

import { expect, test } from "bun:test";
import { createSealedBlobs, MAX_BLOB_BYTES, type BlobId } from "../../../src/blobs/sealed.ts";
import type { BlobStore } from "../../../src/blobs/store.ts";
import { namespaceId } from "../../../src/ids.ts";
import { createNamespaceKeys } from "../../../src/keys/namespace-keys.ts";
import { createNamespaces } from "../../../src/keys/namespaces.ts";
import { createCalls } from "../../../src/keys/calls.ts";
import { createKeys } from "../../../src/keys/keys.ts";
import { createWorkspaces } from "../../../src/keys/workspaces.ts";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { startLedger } from "../../fixtures/ledger.ts";

/** What lies in the store, to look at and to spoil. */
function memoryStore() {
  const objects = new Map<string, Uint8Array>();
  const store: Pick<BlobStore, "put" | "get"> = {
    put: async (key, bytes) => void objects.set(key, new Uint8Array(bytes)),
    get: async (key) => {
      const bytes = objects.get(key);
      return bytes === undefined ? null : new Uint8Array(bytes);
    },
  };
  return { objects, store: store as BlobStore };
}

const secret = (byte: number) => ({
  derive: (purpose: string, bytes = 32) => Buffer.alloc(bytes, `${byte}${purpose}`),
});
const namespace = namespaceId.make();

test("a blob comes back as it was, whatever it holds, and is stored once", async () => {
  const { objects, store } = memoryStore();
  const blobs = createSealedBlobs({ store, namespace, key: secret(1) });
  const contents = [
    new Uint8Array(0),
    Buffer.from("x"),
    Buffer.alloc(MAX_BLOB_BYTES, "the same again "),
    crypto.getRandomValues(new Uint8Array(60_000)),
  ];
  for (const content of contents) {
    const { id, storedBytes } = await blobs.put(content);
    expect(id).toBe(blobs.idOf(content));
    expect(Buffer.from(await blobs.get(id))).toEqual(Buffer.from(content));
    expect(storedBytes).toBeLessThan(content.length + 64);
    expect((await blobs.put(content)).id).toBe(id);
  }
  expect(objects.size).toBe(contents.length);
  expect(await failureOf(blobs.put(new Uint8Array(MAX_BLOB_BYTES + 1)))).toContain("4194305 bytes");
});

test("nothing of the content, and not that it is equal, shows outside the namespace", async () => {
  const { objects, store } = memoryStore();
  const content = Buffer.from("a secret that everybody has");
  const [one, two] = [1, 2].map((byte) =>
    createSealedBlobs({ store, namespace: namespaceId.make(), key: secret(byte) }),
  );
  expect((await one!.put(content)).id).not.toBe((await two!.put(content)).id);
  for (const stored of objects.values()) expect(Buffer.from(stored).includes("secret")).toBe(false);
});

test("a blob that is missing, changed in any byte, cut, or another's is refused by name", async () => {
  const { objects, store } = memoryStore();
  const blobs = createSealedBlobs({ store, namespace, key: secret(1) });
  const { id } = await blobs.put(Buffer.from("worth keeping"));
  const { id: other } = await blobs.put(Buffer.from("something else"));
  const key = blobs.keyOf(id);
  const whole = objects.get(key)!;
  for (let at = 0; at < whole.length; at++) {
    const flipped = Uint8Array.from(whole);
    flipped[at]! ^= 1;
    objects.set(key, flipped);
    expect(await failureOf(blobs.get(id))).toContain(`The blob ${id} is damaged`);
  }
  for (const wrong of [whole.subarray(0, -1), new Uint8Array(0), objects.get(blobs.keyOf(other))!]) {
    objects.set(key, wrong);
    expect(await failureOf(blobs.get(id))).toContain("it is not what was stored");
  }
  objects.delete(key);
  expect(await failureOf(blobs.get(id))).toContain("it is missing");
  expect(await failureOf(blobs.get("../../x" as BlobId))).toContain("no key");
});

test("a namespace's key is its own, stays over a restart, and is destroyed with the namespace", async () => {
  const started = await startLedger();
  const { db, ledger, secrets } = started;
  const calls = createCalls();
  const namespaces = createNamespaces({
    db,
    ledger,
    calls,
    keys: createKeys({ db, ledger, calls }),
    secrets,
    limit: () => 0,
    stopSandbox: async () => {},
    removeFiles: async () => {},
  });
  const workspace = await createWorkspaces({ db, ledger }).create("w", APPLIANCE);
  const [a, b] = [await namespaces.ensure(workspace.id, "a"), await namespaces.ensure(workspace.id, "b")];
  const open = () => createNamespaceKeys({ db, secrets });
  const ofA = (await open().of(a)).derive("x");
  expect((await open().of(a)).derive("x")).toEqual(ofA);
  expect((await open().of(a)).derive("y")).not.toEqual(ofA);
  expect((await open().of(b)).derive("x")).not.toEqual(ofA);
  expect((await open().of(a)).derive("x", 64)).toHaveLength(64);

  // One from before there were keys: both who ask first get the same.
  await db.$client.execute({ sql: "UPDATE namespaces SET wrapped_key = NULL WHERE id = ?", args: [b] });
  const [first, second] = await Promise.all([open().of(b), open().of(b)]);
  expect(first.derive("x")).toEqual(second.derive("x"));

  await namespaces.remove(workspace.id, "a", APPLIANCE);
  expect(await failureOf(open().of(a))).toContain("its key with it");
  await started.close();
});

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sql } from "drizzle-orm";
import { APPLIANCE } from "../../../src/audit/event.ts";
import type { NamespaceId } from "../../../src/ids.ts";
import { createCalls } from "../../../src/keys/calls.ts";
import { createKeys } from "../../../src/keys/keys.ts";
import { createNamespaces } from "../../../src/keys/namespaces.ts";
import { createWorkspaces, type Workspace } from "../../../src/keys/workspaces.ts";
import { startLedger } from "../../fixtures/ledger.ts";

/** A host that remembers what runs and what lies on disk. */
function fakeHost() {
  const running = new Set<NamespaceId>();
  const files = new Set<NamespaceId>();
  return {
    running,
    files,
    broken: false,
    /** The one whose files can't be removed. */
    stuck: null as NamespaceId | null,
    stopSandbox: async (id: NamespaceId) => void running.delete(id),
    async removeFiles(id: NamespaceId) {
      if (this.broken || this.stuck === id) throw new Error("disk on fire");
      if (running.has(id)) throw new Error("still running");
      files.delete(id);
    },
  };
}

let dir: string;
let started: Awaited<ReturnType<typeof startLedger>>;
let host: ReturnType<typeof fakeHost>;
let workspace: Workspace;
let limit = 0;

function domain() {
  const { db, ledger, secrets } = started;
  const calls = createCalls();
  const keys = createKeys({ db, ledger, calls });
  const namespaces = createNamespaces({
    db,
    ledger,
    calls,
    keys,
    secrets,
    limit: () => limit,
    stopSandbox: host.stopSandbox,
    removeFiles: (id) => host.removeFiles(id),
  });
  return { calls, keys, namespaces };
}

let parts: ReturnType<typeof domain>;
const open = () => startLedger({ dir });
const newKey = (over: object = {}) =>
  parts.keys.create(
    { workspaceId: workspace.id, name: "k", scope: "workspace", namespace: null, ...over },
    APPLIANCE,
  );
const hangUp = new AbortController().signal;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "cofferdam-keys-"));
  started = await open();
  host = fakeHost();
  limit = 0;
  parts = domain();
  workspace = await createWorkspaces(started).create("main", APPLIANCE);
});
afterEach(async () => {
  await started.close();
  rmSync(dir, { recursive: true });
});

describe("keys", () => {
  test("authenticate says who holds a key, and no other text is one", async () => {
    const { apiKey, id } = await newKey({ scope: "admin", name: "boss" });
    expect(await parts.keys.authenticate(apiKey)).toEqual({
      scope: "admin",
      workspaceId: workspace.id,
      keyId: id,
      keyName: "boss",
      lockedNamespace: null,
    });
    const last = apiKey.at(-1) === "a" ? "b" : "a";
    expect(await parts.keys.authenticate(apiKey.slice(0, -1) + last)).toBeNull();
    expect(await parts.keys.authenticate("")).toBeNull();
  });

  test("the database holds no key", async () => {
    const { apiKey } = await newKey();
    const rows = JSON.stringify(await started.db.all(sql`SELECT * FROM keys`));
    expect(rows).not.toContain(apiKey.slice(-20));
  });

  test("revoking works at once, in the cache, after a restart and for calls in flight", async () => {
    const { apiKey, id } = await newKey();
    expect(await parts.keys.authenticate(apiKey)).not.toBeNull();
    const call = parts.calls.run(
      { keyId: id, namespaceId: null, hangUp },
      ({ signal }) =>
        new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("killed")))),
    );
    expect(await parts.keys.revoke(workspace.id, id, APPLIANCE)).toBe(true);
    expect(call).rejects.toMatchObject({ code: "sandbox_lost" });
    expect(await parts.keys.authenticate(apiKey)).toBeNull();
    expect(await parts.keys.revoke(workspace.id, id, APPLIANCE)).toBe(false);
    expect(await parts.keys.list(workspace.id)).toEqual([]);
    parts = domain();
    expect(await parts.keys.authenticate(apiKey)).toBeNull();
  });

  test("a revocation that meets a look-up in its middle wins", async () => {
    for (let round = 0; round < 50; round++) {
      const { apiKey, id } = await newKey();
      const looking = parts.keys.authenticate(apiKey);
      await parts.keys.revoke(workspace.id, id, APPLIANCE);
      await looking;
      expect(await parts.keys.authenticate(apiKey)).toBeNull();
    }
  });

  test("another workspace cannot revoke it", async () => {
    const other = await createWorkspaces(started).create("other", APPLIANCE);
    const { apiKey, id } = await newKey();
    expect(await parts.keys.revoke(other.id, id, APPLIANCE)).toBe(false);
    expect(await parts.keys.authenticate(apiKey)).not.toBeNull();
  });

  test("last use shows at once and is stored when flushed", async () => {
    const { apiKey } = await newKey();
    expect((await parts.keys.list(workspace.id))[0]?.lastUsedAt).toBeNull();
    const before = Date.now();
    await parts.keys.authenticate(apiKey);
    expect((await parts.keys.list(workspace.id))[0]?.lastUsedAt).toBeGreaterThanOrEqual(before);
    await parts.keys.lastUse.flush();
    parts = domain();
    expect((await parts.keys.list(workspace.id))[0]?.lastUsedAt).toBeGreaterThanOrEqual(before);
  });
});

describe("namespaces", () => {
  test("one of a name, however many ask at once; looking makes none", async () => {
    expect(await parts.namespaces.find(workspace.id, "a")).toBeNull();
    expect(await parts.namespaces.list(workspace.id)).toEqual([]);
    const ids = await Promise.all(
      Array.from({ length: 20 }, () => parts.namespaces.ensure(workspace.id, "a")),
    );
    expect(new Set(ids).size).toBe(1);
    expect(await parts.namespaces.list(workspace.id)).toHaveLength(1);
  });

  test("the same name in two workspaces is two namespaces", async () => {
    const other = await createWorkspaces(started).create("other", APPLIANCE);
    const [a, b] = [
      await parts.namespaces.ensure(workspace.id, "a"),
      await parts.namespaces.ensure(other.id, "a"),
    ];
    expect(a).not.toBe(b);
  });

  test("the limit holds for many at once, and a deletion makes room", async () => {
    limit = 3;
    const names = Array.from({ length: 10 }, (_, index) => `n${index}`);
    const made = await Promise.allSettled(names.map((name) => parts.namespaces.ensure(workspace.id, name)));
    expect(made.filter(({ status }) => status === "fulfilled")).toHaveLength(3);
    expect(parts.namespaces.ensure(workspace.id, "late")).rejects.toMatchObject({ code: "no_space" });
    const [first] = await parts.namespaces.list(workspace.id);
    await parts.namespaces.remove(workspace.id, first!.name, APPLIANCE);
    expect(await parts.namespaces.ensure(workspace.id, "late")).toBeTruthy();
  });

  test("deleting ends calls, sandbox, files and locked keys, and the name starts afresh", async () => {
    const id = await parts.namespaces.ensure(workspace.id, "gone");
    const locked = await newKey({ namespace: { id, name: "gone" } });
    const free = await newKey();
    await parts.keys.authenticate(locked.apiKey);
    host.running.add(id);
    host.files.add(id);
    const call = parts.calls.run({ keyId: free.id, namespaceId: id, hangUp }, async ({ signal }) => {
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
    });
    const settled = Promise.allSettled([call]);
    expect(await parts.namespaces.remove(workspace.id, "gone", APPLIANCE)).toBe(true);
    await settled;
    expect(host).toMatchObject({ running: new Set(), files: new Set() });
    expect(await parts.keys.authenticate(locked.apiKey)).toBeNull();
    expect(await parts.keys.authenticate(free.apiKey)).not.toBeNull();
    expect(await parts.namespaces.list(workspace.id)).toEqual([]);
    expect(await parts.namespaces.remove(workspace.id, "gone", APPLIANCE)).toBe(false);
    expect(parts.namespaces.isEnding(id)).toBe(true);
    expect(await parts.namespaces.ensure(workspace.id, "gone")).not.toBe(id);
  });

  test("no key is made for one whose deletion has begun", async () => {
    const id = await parts.namespaces.ensure(workspace.id, "gone");
    await parts.namespaces.remove(workspace.id, "gone", APPLIANCE);
    expect(newKey({ namespace: { id, name: "gone" } })).rejects.toMatchObject({ code: "conflict" });
  });

  test("a deletion that failed in the middle is ended at the next start", async () => {
    const id = await parts.namespaces.ensure(workspace.id, "gone");
    const locked = await newKey({ namespace: { id, name: "gone" } });
    host.running.add(id);
    host.files.add(id);
    host.broken = true;
    expect(parts.namespaces.remove(workspace.id, "gone", APPLIANCE)).rejects.toThrow("disk on fire");
    host.broken = false;
    await started.close();
    started = await open();
    parts = domain();
    expect(await parts.keys.authenticate(locked.apiKey)).toBeNull();
    expect(await parts.namespaces.find(workspace.id, "gone")).toBeNull();
    await parts.namespaces.resume();
    expect(host).toMatchObject({ running: new Set(), files: new Set() });
    expect(await started.db.all(sql`SELECT id FROM namespaces UNION ALL SELECT id FROM keys`)).toEqual([]);
  });

  test("one deletion that can't be ended does not keep the others", async () => {
    const failure = (work: Promise<unknown>) => work.then(String, String);
    const bad = await parts.namespaces.ensure(workspace.id, "a");
    await parts.namespaces.ensure(workspace.id, "b");
    host.broken = true;
    for (const name of ["a", "b"])
      expect(await failure(parts.namespaces.remove(workspace.id, name, APPLIANCE))).toContain("disk on fire");
    host.broken = false;
    host.stuck = bad;
    expect(await failure(parts.namespaces.resume())).toContain("not ended");
    expect(await started.db.all(sql`SELECT id FROM namespaces`)).toEqual([{ id: bad }]);
    host.stuck = null;
    await parts.namespaces.resume();
    expect(await started.db.all(sql`SELECT id FROM namespaces`)).toEqual([]);
  });
});

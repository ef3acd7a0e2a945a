import { expect, test } from "bun:test";
import { closeSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { sql } from "drizzle-orm";
import { execJudges } from "../../../src/api/exec-event.ts";
import { APPLIANCE, type EventDraft } from "../../../src/audit/event.ts";
import type { Announce } from "../../../src/audit/announce.ts";
import { settleIntents } from "../../../src/audit/settle.ts";
import { configSchema } from "../../../src/config/schema.ts";
import { intents } from "../../../src/db/schema.ts";
import { namespaceId, workspaceId, type NamespaceId } from "../../../src/ids.ts";
import { parsePath } from "../../../src/volumes/path.ts";
import { createVolumes } from "../../../src/volumes/volumes.ts";
import { allEvents, openIntents } from "../../fixtures/chain.ts";
import { startLedger } from "../../fixtures/ledger.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { alone } from "../../fixtures/volumes.ts";

/*
 * A crash, as what it leaves: a call stops at a chosen moment and never goes on, and a new process finds the database and
 * the volumes. test/integration/volumes/crash.test.ts kills in earnest.
 */
const workspace = workspaceId.make();
const config = configSchema.parse({ quota: { disk_floor_mb: 0 } });
const never = new Promise<never>(() => {});
const bytes = (text: string) => ({ chunks: [new TextEncoder().encode(text)] });

type Moment = "announced" | "made";

async function stage() {
  const scratch = scratchDirectory();
  const dir = scratch.path;
  const id = namespaceId.make();
  let started = await startLedger({ dir });
  let volumes = createVolumes({ dir: join(dir, "volumes"), config: () => config, ...alone });
  await volumes.ensure(id);

  /** What a call announces; it stops before the change, or after it and before its event. */
  const announce =
    (type: string, stopAt: Moment | null, namespace: NamespaceId = id): Announce =>
    async (data) => {
      const origin = { ...APPLIANCE, requestId: "req-x", address: "192.0.2.1" };
      const draft = { chain: workspace, type, namespace: "n", namespaceId: namespace, data, origin };
      const intent = await started.ledger.begin(draft);
      stopped.resolve();
      if (stopAt === "announced") return never;
      return stopAt === null ? intent : { ...intent, complete: async () => (made.resolve(), never) };
    };
  let stopped = Promise.withResolvers<void>();
  let made = Promise.withResolvers<void>();
  const until = async (moment: Moment | null, call: Promise<unknown>) => {
    await (moment === null ? call : moment === "made" ? made.promise : stopped.promise);
    stopped = Promise.withResolvers();
    made = Promise.withResolvers();
  };

  return {
    dir,
    id,
    live: (path: string) => join(dir, "volumes", id, "live", path),
    get db() {
      return started.db;
    },
    get ledger() {
      return started.ledger;
    },
    get volumes() {
      return volumes;
    },
    write: async (path: string, text: string, moment: Moment | null = null) =>
      until(moment, volumes.open(id).write(parsePath(path), bytes(text), announce("file.written", moment))),
    remove: async (path: string, moment: Moment | null = null) =>
      until(moment, volumes.open(id).delete(parsePath(path), announce("file.deleted", moment))),
    /** What a new process makes of it; what it says of each event, by path. */
    async restart() {
      await started.close();
      volumes.close();
      started = await startLedger({ dir });
      volumes = createVolumes({ dir: join(dir, "volumes"), config: () => config, ...alone });
      const judges = { ...volumes.judges(), ...execJudges };
      const log = { info() {}, warn() {}, error() {} };
      await settleIntents({ db: started.db, ledger: started.ledger, judges, log });
      await volumes.sweep();
      expect(await openIntents(started.db)).toBe(0);
      const events = await allEvents(started.db);
      const rows = events.map(({ type, settled, data }) => [type, data["path"], settled, data["outcome"]]);
      // What began in one millisecond is in no order.
      return rows.toSorted((a, b) => (String(a) < String(b) ? -1 : 1));
    },
    async end() {
      await started.close();
      volumes.close();
      scratch[Symbol.dispose]();
    },
  };
}

test("a write that was announced and not made has no event, and its bytes are swept", async () => {
  const it = await stage();
  await it.write("a", "old");
  await it.write("a", "new", "announced");
  await it.write("b", "new", "announced");
  expect(await it.restart()).toEqual([["file.written", "workspace/a", undefined, undefined]]);
  expect(await Bun.file(it.live("a")).text()).toBe("old");
  await it.end();
});

test("a write that was made has its event: done while its bytes are there, unknown once others are", async () => {
  const it = await stage();
  await it.write("kept", "one", "made");
  await it.write("overwritten", "one", "made");
  await it.write("moved", "one", "made");
  await it.write("same size", "one", "made");
  writeFileSync(it.live("overwritten"), "by a command");
  renameSync(it.live("moved"), it.live("elsewhere"));
  writeFileSync(it.live("same size"), "two");
  expect(await it.restart()).toEqual([
    ["file.written", "workspace/kept", true, "done"],
    ["file.written", "workspace/moved", true, "unknown"],
    ["file.written", "workspace/overwritten", true, "unknown"],
    ["file.written", "workspace/same size", true, "unknown"],
  ]);
  const [event] = await allEvents(it.db);
  // The intent's own request and client, and what is known: not the name of a temporary file.
  expect(event).toMatchObject({ request_id: "req-x", source_address: "192.0.2.1", namespace: "n" });
  expect(Object.keys(event?.data ?? {})).toEqual(["outcome", "path", "sha256", "size_bytes"]);
  // Settled once and for all.
  expect((await it.restart()).length).toBe(4);
  await it.end();
});

test("a deletion: none when nothing went, done when it did, unknown when something else is there by now", async () => {
  const it = await stage();
  for (const path of ["stays", "changed", "gone", "dir/in", "again"]) await it.write(path, "x");
  await it.remove("stays", "announced");
  await it.remove("changed", "announced");
  await it.remove("gone", "made");
  await it.remove("dir", "made");
  await it.remove("again", "made");
  writeFileSync(it.live("changed"), "meanwhile");
  writeFileSync(it.live("again"), "meanwhile");
  const events = await it.restart();
  expect(events.filter(([type]) => type === "file.deleted")).toEqual([
    // It lies in tmp, so that what is there now is another.
    ["file.deleted", "workspace/again", true, "done"],
    ["file.deleted", "workspace/changed", true, "unknown"],
    ["file.deleted", "workspace/dir", true, "done"],
    ["file.deleted", "workspace/gone", true, "done"],
  ]);
  expect(await Bun.file(it.live("stays")).exists()).toBe(true);
  await it.end();
});

test("a completion that a power cut took back is made again, as settled, with the same id", async () => {
  const it = await stage();
  // The log as the disk has it at the last flush that somebody waited for: with the intents, without their completion.
  const wal = join(it.dir, "cofferdam.db-wal");
  await it.write("first", "1");
  await it.ledger.durable();
  const flushed = { size: 0 };
  for (const path of ["a", "b"]) await it.write(path, path, "made");
  await it.ledger.durable();
  flushed.size = Bun.file(wal).size;
  const rows = await it.db.select().from(intents);
  for (const { id, draft } of rows) {
    const announced = JSON.parse(draft) as EventDraft;
    const { temporary: _, ...data } = announced.data;
    await it.ledger.settle({ ...announced, id, data });
  }
  const before = await allEvents(it.db);
  expect([before.length, await openIntents(it.db)]).toEqual([3, 0]);
  // The copy ends where the flush did; and, as an unflushed end may, goes on with something else.
  const copy = join(it.dir, "copy");
  await Bun.write(join(copy, "cofferdam.db"), Bun.file(join(it.dir, "cofferdam.db")));
  const whole = await Bun.file(wal).bytes();
  expect(whole.length).toBeGreaterThan(flushed.size);
  const fd = openSync(join(copy, "cofferdam.db-wal"), "w");
  writeSync(fd, whole.subarray(0, flushed.size));
  writeSync(fd, new Uint8Array(5000));
  closeSync(fd);

  const cut = await startLedger({ dir: copy });
  expect([(await allEvents(cut.db)).length, await openIntents(cut.db)]).toEqual([1, 2]);
  const log = { info() {}, warn() {}, error() {} };
  await settleIntents({ db: cut.db, ledger: cut.ledger, judges: it.volumes.judges(), log });
  const after = await allEvents(cut.db);
  const said = after.map(({ settled, data }) => [data["path"], settled, data["outcome"]]);
  expect(said.toSorted((a, b) => (String(a) < String(b) ? -1 : 1))).toEqual([
    ["workspace/a", true, "done"],
    ["workspace/b", true, "done"],
    ["workspace/first", undefined, undefined],
  ]);
  const ids = (events: typeof after) => events.map(({ id }) => id).toSorted();
  expect(ids(after)).toEqual(ids(before));
  await cut.close();
  await it.end();
});

test("a command, and what happened in a namespace that is gone, are settled as not known", async () => {
  const it = await stage();
  const draft = { chain: workspace, namespace: "n", namespaceId: it.id, origin: APPLIANCE };
  await it.ledger.begin({ ...draft, type: "exec.completed", data: { command: "make" } });
  await it.write("a", "x", "made");
  await it.write("b", "x", "announced");
  await it.volumes.remove(it.id);
  await it.restart();
  // What was announced within one millisecond has no order.
  const events = (await allEvents(it.db)).toSorted((a, b) => (a.type < b.type ? -1 : 1));
  expect(events.map(({ type, settled }) => [type, settled])).toEqual([
    ["exec.completed", true],
    ["file.written", true],
    ["file.written", true],
  ]);
  expect(events[0]?.data).toEqual({
    command: "make",
    ended: "lost",
    exit_code: null,
    duration_ms: null,
    stdout: "",
    timed_out: false,
    error: null,
    outcome: "unknown",
  });
  expect(events[1]?.data).toMatchObject({ outcome: "unknown", namespace_deleted: true });
  rmSync(it.dir, { recursive: true, force: true });
});

test("thousands of them are settled, and what would take long to read is not compared", async () => {
  const it = await stage();
  const announcing = Array.from({ length: 3000 }, async (_, n) => {
    const data = { path: `workspace/f${n}`, size_bytes: 1, sha256: "0".repeat(64), temporary: `x-${n}` };
    const origin = APPLIANCE;
    await it.ledger.begin({
      chain: workspace,
      type: "file.written",
      namespace: "n",
      namespaceId: it.id,
      data,
      origin,
    });
  });
  await Promise.all(announcing);
  await it.write("large", "x", "made");
  // Sparse: it would take seconds to read, and matches by its size.
  const large = 3 * 1024 ** 3;
  Bun.spawnSync(["truncate", "-s", String(large), it.live("large")]);
  const data = { path: "workspace/large", size_bytes: large, sha256: "0".repeat(64), temporary: "y" };
  const draft = {
    chain: workspace,
    type: "file.written",
    namespace: "n",
    namespaceId: it.id,
    origin: APPLIANCE,
  };
  await it.ledger.begin({ ...draft, data });
  const start = performance.now();
  const events = await it.restart();
  console.log(`3002 changes settled in ${Math.round(performance.now() - start)} ms`);
  expect(events.length).toBe(3002);
  expect(new Set(events.map(([, , , outcome]) => outcome))).toEqual(new Set(["unknown"]));
  await it.end();
});

test("what somebody else announced in the database is no event, but is told of", async () => {
  const it = await stage();
  await it.write("a", "text", "announced");
  await it.db.run(sql`UPDATE intents SET draft = replace(draft, 'workspace/a', 'workspace/b')`);
  await it.db.run(sql`INSERT INTO intents SELECT 'evt-x', 1, namespace_id, 'no JSON', mac FROM intents`);
  await it.restart();
  expect((await allEvents(it.db)).map(({ type }) => type)).toEqual(["audit.broken"]);
  await it.end();
});

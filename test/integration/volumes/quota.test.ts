import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { linkSync, mkdirSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { namespaces, workspaces } from "../../../src/db/schema.ts";
import { AppError } from "../../../src/errors.ts";
import { namespaceId, workspaceId, type NamespaceId } from "../../../src/ids.ts";
import { parsePath } from "../../../src/volumes/path.ts";
import type { Usage } from "../../../src/volumes/usage.ts";
import { createUsageRows } from "../../../src/volumes/usage-rows.ts";
import { createUsageTable } from "../../../src/volumes/usage-table.ts";
import type { Volume } from "../../../src/volumes/volume.ts";
import { startLedger } from "../../fixtures/ledger.ts";
import { until } from "../../fixtures/until.ts";
import { quietly, volumeFixture } from "../../fixtures/volumes.ts";

const KIB = 1024;
const write = async (volume: Volume, path: string, size: number) =>
  quietly(volume).write(parsePath(path), { chunks: [new Uint8Array(size)], sizeBytes: size });
const outcome = async (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "ok",
    (error: unknown) => {
      if (error instanceof AppError) return error.code;
      throw error;
    },
  );
const count = (all: readonly string[], wanted: string) => all.filter((one) => one === wanted).length;

describe("bytes of a namespace", () => {
  test("hold for many writers at once, and what is refused takes none", async () => {
    using fixture = await volumeFixture({ quota: { namespace_mb: 1 } });
    const { volume } = fixture;
    const writers = Array.from({ length: 30 }, (_, n) => outcome(write(volume, `f${n}`, 100 * KIB)));
    const outcomes = await Promise.all(writers);
    expect([count(outcomes, "ok"), count(outcomes, "no_space")]).toEqual([10, 20]);
    expect(await outcome(write(volume, "rest", 24 * KIB))).toBe("ok");
    expect(await outcome(write(volume, "more", 1))).toBe("no_space");
    expect(await fixture.known()).toEqual({ bytes: 1024 * KIB, files: 11, directories: 0 });
    expect(await fixture.known()).toEqual(await fixture.usage());
  });

  test("of a replaced file count once, and a smaller one always fits", async () => {
    using fixture = await volumeFixture({ quota: { namespace_mb: 1 } });
    const { volume, config } = fixture;
    expect(await outcome(write(volume, "a", 900 * KIB))).toBe("ok");
    expect(await outcome(write(volume, "a", 1000 * KIB))).toBe("ok");
    expect(await outcome(write(volume, "a", 1025 * KIB))).toBe("no_space");
    // As if the limit had been lowered since.
    truncateSync(join(fixture.live, "a"), 3000 * KIB);
    fixture.volumes.table.changed(fixture.id);
    expect(await outcome(write(volume, "b", 1))).toBe("no_space");
    expect(await outcome(write(volume, "a", 2000 * KIB))).toBe("ok");
    expect((await fixture.known()).bytes).toBeGreaterThan(config.quota.namespace_mb * KIB * KIB);
    expect(await outcome(volume.delete(parsePath("a")))).toBe("ok");
    expect(await outcome(write(volume, "b", 1024 * KIB))).toBe("ok");
  });

  test("are counted at any depth", async () => {
    using fixture = await volumeFixture({ quota: { namespace_mb: 1 } });
    const deep = join(fixture.live, "d/".repeat(300));
    mkdirSync(deep, { recursive: true });
    writeFileSync(join(deep, "hidden"), new Uint8Array(1024 * KIB));
    linkSync(join(deep, "hidden"), join(deep, "again"));
    linkSync(join(deep, "hidden"), join(fixture.live, "above"));
    fixture.volumes.table.changed(fixture.id);
    expect(await outcome(write(fixture.volume, "more", 1))).toBe("no_space");
    expect(await fixture.known()).toEqual({ bytes: 1024 * KIB, files: 3, directories: 300 });
  });

  test("stop a body of unknown length as soon as it is too long", async () => {
    using fixture = await volumeFixture({ quota: { namespace_mb: 1 } });
    const state = { sent: 0 };
    const endless = (async function* () {
      for (;;) {
        state.sent += 64 * KIB;
        yield new Uint8Array(64 * KIB);
      }
    })();
    expect(await outcome(fixture.volume.write(parsePath("f"), { chunks: endless }))).toBe("no_space");
    expect(state.sent).toBe(1024 * KIB + 64 * KIB);
    expect([readdirSync(fixture.live), readdirSync(fixture.tmp)]).toEqual([[], []]);
    expect(await outcome(write(fixture.volume, "f", 1024 * KIB))).toBe("ok");
  });

  test("of a workspace hold for all its namespaces together", async () => {
    using fixture = await volumeFixture({ quota: { workspace_mb: 1 } });
    const other = namespaceId.make();
    await fixture.volumes.ensure(other);
    const both = [fixture.volume, fixture.volumes.open(other)];
    for (const volume of both) expect(await outcome(write(volume, "f", 400 * KIB))).toBe("ok");
    const writers = both.flatMap((volume) =>
      Array.from({ length: 5 }, (_, n) => outcome(write(volume, `f${n}`, 100 * KIB))),
    );
    expect(count(await Promise.all(writers), "ok")).toBe(2);
    const why = "The workspace would take more than the 1 MiB it may take";
    expect(write(fixture.volume, "more", 100 * KIB)).rejects.toThrow(why);
    await fixture.volumes.remove(other);
    expect(await outcome(write(fixture.volume, "more", 100 * KIB))).toBe("ok");
  });
});

describe("what is known of a namespace is what there is", () => {
  test("after any calls at once, on the same names", async () => {
    using fixture = await volumeFixture();
    const names = ["a", "b", "d/a", "d/b", "d/e/f", "e/a"];
    const pick = (from: readonly string[]) => from[Math.floor(Math.random() * from.length)]!;
    for (let round = 0; round < 3; round++) {
      const calls = Array.from({ length: 150 }, async () =>
        Math.random() < 0.65
          ? outcome(write(fixture.volume, pick(names), Math.floor(Math.random() * 5000)))
          : outcome(fixture.volume.delete(parsePath(pick([...names, "d", "e", "d/e"])))),
      );
      await Promise.all(calls);
      // Where a deletion met a write into the same directory it is counted again.
      const { table } = fixture.volumes;
      await until(async () => (await table.account(fixture.id)).counted);
      expect(await fixture.known()).toEqual(await fixture.usage());
    }
  }, 60_000);

  test("with holes, second names, and directories deleted with all in them", async () => {
    using fixture = await volumeFixture();
    const { volume, live, volumes } = fixture;
    mkdirSync(join(live, "d/e"), { recursive: true });
    writeFileSync(join(live, "d/one"), "12345");
    for (const name of ["d/two", "d/e/three", "outside"]) linkSync(join(live, "d/one"), join(live, name));
    writeFileSync(join(live, "hole"), "");
    truncateSync(join(live, "hole"), 10 * KIB * KIB);
    volumes.table.changed(fixture.id);
    await until(async () => (await fixture.known()).files === 5);
    expect(await fixture.known()).toEqual({ bytes: 10 * KIB * KIB + 5, files: 5, directories: 2 });
    await volume.delete(parsePath("d"));
    expect(await fixture.known()).toEqual({ bytes: 10 * KIB * KIB + 5, files: 2, directories: 0 });
    await volume.delete(parsePath("outside"));
    await volume.delete(parsePath("hole"));
    expect(await fixture.known()).toEqual({ bytes: 0, files: 0, directories: 0 });
  });
});

describe("what is stored", () => {
  const workspace = workspaceId.make();
  const [one, two] = [namespaceId.make(), namespaceId.make()];
  const onDisk = new Map<NamespaceId, Usage>();
  let started: Awaited<ReturnType<typeof startLedger>>;
  let dir: string | undefined;

  beforeEach(async () => {
    started = await startLedger();
    dir = started.dir;
    const at = { workspaceId: workspace, createdAt: 1, lastUsedAt: 1 };
    await started.db.insert(workspaces).values({ id: workspace, name: "w", createdAt: 1 });
    await started.db.insert(namespaces).values([
      { id: one, name: "one", ...at },
      { id: two, name: "two", ...at },
    ]);
    onDisk.set(one, { bytes: 10, files: 1, directories: 0 });
    onDisk.set(two, { bytes: 20, files: 2, directories: 1 });
  });
  afterEach(async () => {
    await started.close();
    rmSync(dir ?? "", { recursive: true });
  });

  /** As a start makes it, with the walks that it took. */
  async function opened() {
    const { db, ledger } = started;
    const rows = createUsageRows(db, (id) => ledger.head(id)?.createdAt ?? 0);
    await rows.expire();
    const walks: NamespaceId[] = [];
    const table = createUsageTable({
      rows,
      async count(id) {
        walks.push(id);
        return { ...onDisk.get(id)!, whole: true };
      },
    });
    return { table, walks };
  }
  const tell = async (type: string, namespace: string) =>
    started.ledger.append([{ chain: workspace, type, namespace, data: {}, origin: APPLIANCE }]);

  test("needs no walk at the next start, nor for any listing", async () => {
    const first = await opened();
    expect((await first.table.survey(workspace)).total).toEqual({ bytes: 30, files: 3, directories: 1 });
    for (let n = 0; n < 5; n++) await first.table.survey(workspace);
    expect(first.walks.toSorted()).toEqual([one, two].toSorted());
    await tell("file.written", "one");
    first.table.apply(await first.table.account(one), { bytes: 5, files: 1, directories: 0 });
    await first.table.flush();
    first.table.close();

    const second = await opened();
    const seen = await second.table.survey(workspace);
    expect([seen.total, seen.of(one)]).toEqual([
      { bytes: 35, files: 4, directories: 1 },
      { bytes: 15, files: 2, directories: 0 },
    ]);
    expect(second.walks).toEqual([]);
    second.table.close();
  });

  test("is counted again where the log knows of a later change, and only there", async () => {
    const first = await opened();
    await first.table.survey(workspace);
    await first.table.flush();
    first.table.close();
    for (const type of ["file.written", "file.deleted", "exec.completed", "snapshot.restored"]) {
      // A crash: what is known in memory is gone.
      onDisk.set(two, { bytes: 21, files: 3, directories: 1 });
      await tell("webhook.created", "one");
      await tell(type, "two");
      const next = await opened();
      expect((await next.table.survey(workspace)).of(two)).toEqual(onDisk.get(two)!);
      expect(next.walks).toEqual([two]);
      await next.table.flush();
      next.table.close();
    }
  });

  test("is not what a command may be changing", async () => {
    const first = await opened();
    await first.table.survey(workspace);
    const account = await first.table.account(one);
    first.table.begin(account);
    await first.table.flush();
    first.table.close();
    const second = await opened();
    await second.table.survey(workspace);
    expect(second.walks).toEqual([one]);
    second.table.close();
  });
});

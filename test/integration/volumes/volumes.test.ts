import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, rmdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { join } from "node:path";
import { AppError } from "../../../src/errors.ts";
import { namespaceId } from "../../../src/ids.ts";
import { parsePath } from "../../../src/volumes/path.ts";
import type { Volume } from "../../../src/volumes/volume.ts";
import { until } from "../../fixtures/until.ts";
import { openDescriptors } from "../../fixtures/scratch.ts";
import { quietly, volumeFixture } from "../../fixtures/volumes.ts";

type Fixture = Awaited<ReturnType<typeof volumeFixture>>;

const bytes = (text: string) => ({ chunks: [new TextEncoder().encode(text)] });
const write = async (volume: Volume, path: string, text = "x") =>
  quietly(volume).write(parsePath(path), bytes(text));

async function refusal(call: Promise<unknown>): Promise<AppError> {
  try {
    await call;
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error("it was let through");
}

describe("a namespace's directories", () => {
  let fixture: Fixture;
  beforeEach(async () => {
    fixture = await volumeFixture();
  });
  afterEach(() => fixture[Symbol.dispose]());

  test("are made once, with their owners and modes", async () => {
    const { volumes, dir, id, live, tmp } = fixture;
    const modes = () =>
      [dir, join(dir, id), live, tmp].map((path) => [
        (statSync(path).mode & 0o777).toString(8),
        statSync(path).uid,
      ]);
    const expected = [
      ["700", 0],
      ["700", 0],
      ["755", 10_000],
      ["700", 0],
    ];
    expect(modes()).toEqual(expected);
    await Promise.all([volumes.ensure(id), volumes.ensure(id)]);
    expect(modes()).toEqual(expected);
    // As a crash in the middle leaves it.
    rmdirSync(tmp);
    await volumes.ensure(id);
    expect(modes()).toEqual(expected);
  });

  test("are made whole under a strict umask too", async () => {
    const before = process.umask(0o077);
    try {
      const id = namespaceId.make();
      await fixture.volumes.ensure(id);
      await write(fixture.volumes.open(id), "a/b");
      for (const path of ["", "a"]) {
        expect(statSync(join(fixture.dir, id, "live", path)).mode & 0o777).toBe(0o755);
      }
      expect(statSync(join(fixture.dir, id, "live/a/b")).mode & 0o777).toBe(0o644);
    } finally {
      process.umask(before);
    }
  });

  test("go with all in them, and nothing else", async () => {
    const { volumes, volume, dir, id } = fixture;
    const other = namespaceId.make();
    await volumes.ensure(other);
    await write(volumes.open(other), "mine");
    await write(volume, "a/b/c");
    symlinkSync(join(dir, other), join(fixture.live, "link"));
    await volumes.remove(id);
    await volumes.remove(id);
    expect(existsSync(join(dir, id))).toBe(false);
    expect(readdirSync(join(dir, ".trash"))).toEqual([]);
    expect(await volume.list(parsePath(""), true)).toEqual({ entries: [], truncated: false });
    expect(await fixture.usage()).toEqual({ bytes: 0, files: 0, directories: 0 });
    expect((await refusal(volume.content(parsePath("a")))).code).toBe("not_found");
    expect((await volumes.open(other).list(parsePath(""), true)).entries).toHaveLength(1);
  });

  test("of what was never made read as empty", async () => {
    for (const volume of [fixture.volumes.open(null), fixture.volumes.open(namespaceId.make())]) {
      expect((await volume.list(parsePath("workspace"), false)).entries).toEqual([]);
      for (const call of [
        volume.list(parsePath("a"), false),
        volume.content(parsePath("a")),
        quietly(volume).delete(parsePath("a")),
      ]) {
        expect((await refusal(call)).code).toBe("not_found");
      }
    }
  });

  test("are swept of what a crash left, and of nothing that is under way", async () => {
    const { volumes, volume, tmp, dir } = fixture;
    mkdirSync(join(tmp, "old", "deep"), { recursive: true });
    writeFileSync(join(tmp, "old", "deep", "f"), "x");
    writeFileSync(join(tmp, "partial"), "x");
    mkdirSync(join(dir, ".trash", "gone", "live"), { recursive: true });
    const gate = Promise.withResolvers<void>();
    const slow = volume.write(parsePath("slow"), {
      chunks: (async function* () {
        yield new Uint8Array(10);
        await gate.promise;
        yield new Uint8Array(10);
      })(),
    });
    while (readdirSync(tmp).length < 3) await setImmediate();
    expect(await volumes.sweep()).toBe(3);
    expect([readdirSync(tmp).length, readdirSync(join(dir, ".trash")).length]).toEqual([1, 0]);
    gate.resolve();
    expect((await slow).sizeBytes).toBe(20);
    expect(readdirSync(tmp)).toEqual([]);
  });
});

describe("limits", () => {
  test("of files and directories together, with 507", async () => {
    using fixture = await volumeFixture({ quota: { namespace_files: 5 } });
    const { volume } = fixture;
    await write(volume, "a/b/1");
    await write(volume, "a/b/2");
    await write(volume, "3");
    for (const path of ["4", "a/b/4", "c/d/e"]) {
      const error = await refusal(write(volume, path));
      expect([error.code, error.message]).toEqual([
        "no_space",
        expect.stringContaining("5 files and directories"),
      ]);
    }
    await write(volume, "a/b/1", "replacing makes nothing new");
    await volume.delete(parsePath("3"));
    await write(volume, "4");
    expect((await refusal(write(volume, "5"))).code).toBe("no_space");
    // What commands deleted counts as soon as it was counted.
    Bun.spawnSync(["rm", join(fixture.live, "4")]);
    fixture.volumes.table.changed(fixture.id);
    await until(async () => (await fixture.known()).files === 2);
    await write(volume, "5");
    expect(await fixture.usage()).toMatchObject({ files: 3, directories: 2 });
  });

  test("of files hold for many writers at once", async () => {
    using fixture = await volumeFixture({ quota: { namespace_files: 10 } });
    const outcomes = await Promise.allSettled(
      Array.from({ length: 30 }, (_, index) => write(fixture.volume, `f${index}`)),
    );
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(10);
    expect(readdirSync(fixture.live)).toHaveLength(10);
  });

  test("of one file's size", async () => {
    using fixture = await volumeFixture({ http: { max_upload_mb: 1 } });
    const MIB = 1024 * 1024;
    await fixture.volume.write(parsePath("fits"), { chunks: [new Uint8Array(MIB)] });
    const chunks = [new Uint8Array(MIB), new Uint8Array(1)];
    expect((await refusal(fixture.volume.write(parsePath("x"), { chunks }))).code).toBe("too_large");
    expect(
      (await refusal(fixture.volume.write(parsePath("x"), { chunks: [], sizeBytes: MIB + 1 }))).code,
    ).toBe("too_large");
    expect(readdirSync(fixture.live)).toEqual(["fits"]);
    expect(readdirSync(fixture.tmp)).toEqual([]);
  });

  test("of the disk: its floor, and its end", async () => {
    // A file system of its own, of 16 MiB.
    using fixture = await volumeFixture();
    const volume = join(fixture.dir, fixture.id);
    expect(Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", volume]).exitCode).toBe(
      0,
    );
    try {
      await fixture.volumes.ensure(fixture.id);
      const large = { chunks: Array.from({ length: 17 }, () => new Uint8Array(1024 * 1024)) };
      const full = await refusal(fixture.volume.write(parsePath("large"), large));
      expect([full.code, full.message]).toEqual(["no_space", expect.stringContaining("disk is full")]);
      expect([readdirSync(fixture.live), readdirSync(fixture.tmp)]).toEqual([[], []]);
      await write(fixture.volume, "small");

      using floored = await volumeFixture({ quota: { disk_floor_mb: 1_000_000_000 } });
      const low = await refusal(write(floored.volume, "small"));
      expect([low.code, low.message]).toEqual(["no_space", expect.stringContaining("nearly full")]);
    } finally {
      Bun.spawnSync(["umount", volume]);
    }
  });
});

test("a write whose body is shorter than announced, or breaks off, or is called off, changes nothing", async () => {
  using fixture = await volumeFixture();
  const { volume } = fixture;
  const path = parsePath("made/up/f");
  const before = openDescriptors(fixture.dir);
  const short = await refusal(volume.write(path, { ...bytes("12345"), sizeBytes: 6 }));
  expect([short.code, short.message]).toEqual(["bad_input", expect.stringContaining("5 of the 6 bytes")]);
  const broken = (async function* () {
    yield new Uint8Array(5);
    throw new Error("hung up");
  })();
  expect(volume.write(path, { chunks: broken })).rejects.toThrow("hung up");
  const reason = new AppError("unauthenticated", "revoked");
  expect(
    (await refusal(volume.write(path, { ...bytes("x"), signal: AbortSignal.abort(reason) }))).message,
  ).toBe("revoked");
  expect([readdirSync(fixture.live), readdirSync(fixture.tmp)]).toEqual([[], []]);
  expect(openDescriptors(fixture.dir)).toBe(before);
});

test("a directory that is deleted while files are put into it ends whole or gone", async () => {
  using fixture = await volumeFixture();
  const { volume } = fixture;
  const outcomes = await Promise.allSettled(
    Array.from({ length: 200 }, (_, index) =>
      index % 10 === 9 ? volume.delete(parsePath("d")) : write(volume, `d/e/f${index}`),
    ),
  );
  for (const outcome of outcomes) {
    if (outcome.status === "rejected")
      expect((outcome.reason as AppError).code).toMatch(/not_found|conflict/);
  }
  await write(volume, "d/e/last");
  expect((await volume.content(parsePath("d/e/last"))).content).toBe("x");
  expect(readdirSync(fixture.tmp)).toEqual([]);
});

test("a huge directory is listed, counted and deleted while others are served", async () => {
  using fixture = await volumeFixture();
  const { volume } = fixture;
  const COUNT = 20_000;
  mkdirSync(join(fixture.live, "huge"));
  const fill = `cd "$1" && seq -f %06.0f ${COUNT} | xargs touch && ln -s 000001 zz-link`;
  expect(Bun.spawnSync(["bash", "-c", fill, "fill", join(fixture.live, "huge")]).exitCode).toBe(0);

  /** The turns that the event loop gave others, while `work` ran. */
  async function turnsDuring<T>(work: Promise<T>): Promise<{ result: T; turns: number }> {
    const state = { done: false, turns: 0 };
    const ended = work.finally(() => (state.done = true));
    while (!state.done) {
      await setImmediate();
      state.turns++;
    }
    return { result: await ended, turns: state.turns };
  }

  const listed = await turnsDuring(volume.list(parsePath("huge"), true));
  expect([listed.result.entries.length, listed.result.truncated]).toEqual([1000, true]);
  expect(listed.result.entries.map(({ name }) => name)).toEqual(
    Array.from({ length: 1000 }, (_, index) => String(index + 1).padStart(6, "0")),
  );
  const gone = new AbortController();
  const abandoned = volume.list(parsePath("huge"), true, gone.signal).catch((error: unknown) => error);
  const why = new Error("the client hung up");
  gone.abort(why);
  expect(await abandoned).toBe(why);
  const counted = await turnsDuring(fixture.usage());
  expect(counted.result).toEqual({ bytes: 0, files: COUNT + 1, directories: 1 });
  const deleted = await turnsDuring(volume.delete(parsePath("huge")));
  expect(readdirSync(fixture.tmp)).toEqual([]);
  for (const { turns } of [listed, counted, deleted]) expect(turns).toBeGreaterThan(5);
}, 60_000);

import { afterAll, beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { SealedBlobs } from "../../../src/blobs/sealed.ts";
import { createStandstill } from "../../../src/sandbox/standstill.ts";
import { createPath, decodeManifest, type ManifestRef } from "../../../src/snapshots/manifest.ts";
import { snapshotMaker } from "../../fixtures/snapshot-maker.ts";
import { until } from "../../fixtures/until.ts";
import { realLibrary, stageExec, type ExecStage } from "../sandbox/stage.ts";

let at: ExecStage;

beforeAll(async () => {
  at = await stageExec(realLibrary(), { timeout_s: 60 });
}, 900_000);

afterAll(async () => {
  expect(await at.end()).toEqual([]);
}, 120_000);

/**
 * Counts, and stores each number in four files, in an order: by write, through a mapping, by write, through a mapping. And
 * it moves one file to and fro. So at any moment the four hold one number, or the later ones the number before it.
 */
const PROGRAM = `
import mmap, os
os.chdir("workspace")
def mapped(name):
    fd = os.open(name, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4096)
    return memoryview(mmap.mmap(fd, 4096)).cast("Q")
def written(name):
    return os.open(name, os.O_RDWR | os.O_CREAT)
first, second, third, fourth = written("1"), mapped("2"), written("3"), mapped("4")
open("here", "w").close()
n = 0
while not os.path.exists("stop"):
    n += 1
    data = n.to_bytes(8, "little")
    os.pwrite(first, data, 0)
    second[0] = n
    os.pwrite(third, data, 0)
    fourth[0] = n
    os.rename("here", "there") if n % 2 else os.rename("there", "here")
print(n)
`;

interface Seen {
  readonly counts: readonly number[];
  readonly moved: readonly string[];
}

async function seenIn(blobs: Pick<SealedBlobs, "get">, ref: ManifestRef): Promise<Seen> {
  const counts = [0, 0, 0, 0];
  const moved: string[] = [];
  const path = createPath();
  for await (const batch of decodeManifest(blobs, ref)) {
    for (const entry of batch) {
      const name = path.of(entry).toString();
      if (name === "here" || name === "there") moved.push(name);
      if (!/^[1-4]$/.test(name) || entry.type !== "file") continue;
      const [extent] = entry.data;
      if (extent === undefined) continue;
      const [, blob, offset] = extent;
      counts[Number(name) - 1] = Number(Buffer.from(await blobs.get(blob)).readBigUInt64LE(offset));
    }
  }
  return { counts, moved };
}

/** Whether the files were so at some moment. */
function existed({ counts, moved }: Seen): boolean {
  const [first = 0, second = 0, third = 0, fourth = 0] = counts;
  return first >= second && second >= third && third >= fourth && fourth >= first - 1 && moved.length === 1;
}

test("each snapshot that is made while a command writes is a state that existed", async () => {
  const namespace = at.namespace();
  const program = at.sh(namespace, "python3 -", { stdin: Buffer.from(PROGRAM) });
  const live = at.live(namespace);
  await until(async () => await Bun.file(join(live, "there")).exists());

  using maker = snapshotMaker(createStandstill({ sandboxd: at.client, exec: at.exec }), { namespace, live });
  const seen: Seen[] = [];
  let base: ManifestRef | null = null;
  let pausedMs = 0;
  for (let round = 0; round < 12; round++) {
    // Every fourth time more changes than is read in the pause.
    if (round % 4 === 3)
      for (let file = 0; file < 600; file++) writeFileSync(join(live, `f${file}`), `${round}`);
    const made = await maker.create({ base });
    base = made.manifest;
    pausedMs = Math.max(pausedMs, made.pausedMs);
    seen.push(await seenIn(maker.blobs, made.manifest));
    await Bun.sleep(50);
  }

  // Positive control: what happens without the pause shows.
  using hasty = snapshotMaker({ isWarm: () => true, freeze: async () => null }, { namespace, live });
  let torn = 0;
  for (let round = 0; round < 100 && torn === 0; round++) {
    const made = await hasty.create();
    if (!existed(await seenIn(hasty.blobs, made.manifest))) torn += 1;
  }

  writeFileSync(join(live, "stop"), "");
  const { exitCode, stdout, stderr } = await program;
  expect([exitCode, stderr]).toEqual([0, ""]);
  console.log(`counted to ${stdout.trim()}, longest pause ${pausedMs.toFixed(0)} ms`);
  expect(seen.filter((state) => !existed(state))).toEqual([]);
  const first = seen.map(({ counts }) => counts[0] ?? 0);
  expect(first).toEqual(first.toSorted((a, b) => a - b));
  expect(new Set(first).size).toBe(first.length);
  expect(torn).toBe(1);
}, 120_000);

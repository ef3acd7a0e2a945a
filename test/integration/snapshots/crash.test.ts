import { expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { namespaceId } from "../../../src/ids.ts";
import { allEvents, openIntents } from "../../fixtures/chain.ts";
import { fileClient } from "../../fixtures/file-api.ts";
import { startFileProcess } from "../../fixtures/file-process.ts";
import { startLedger } from "../../fixtures/ledger.ts";
import { listingOf } from "../../fixtures/listing.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { amount } from "../../fixtures/amount.ts";

/** Takes half a second each. */
const KILLS = amount("RESTORE_KILLS", 8);

interface Snapshot {
  readonly snapshot_id: string;
}

const idOf = async (answer: Promise<Response>) => ((await (await answer).json()) as Snapshot).snapshot_id;

test("killed at any moment of a restore, the files are the old ones or the new ones, and the log says which", async () => {
  using scratch = scratchDirectory();
  const id = namespaceId.make();
  const live = join(scratch.path, "volumes", id, "live");
  const tmp = join(scratch.path, "volumes", id, "tmp");
  const trees = new Map<string, string[]>();
  const outcomes = { old: 0, new: 0, answered: 0, leftBeside: 0 };

  const first = await startFileProcess(scratch.path);
  const client = fileClient(first.port, id);
  // Two states that share no file, and are large enough that a kill can fall into the middle of one.
  for (const state of ["one", "two"]) {
    for (let n = 0; n < 60; n++) await client.put(`${state}/${n % 7}/f${n}`, `${state} ${n} `.repeat(n * 30));
    if (state === "two") await client.remove("one");
    const snapshot = await idOf(client.snapshot(state));
    trees.set(snapshot, listingOf(live));
  }
  await first.kill();
  const [one = "", two = ""] = trees.keys();
  /** By what the disk had at the last look. */
  let now = two;
  let restores = 0;
  let kills = 0;

  // At least so many, and until one has come too early, one too late, and one in the middle.
  const isShown = () => outcomes.old > 0 && outcomes.new > 0 && outcomes.leftBeside > 0;
  /** Half of the kills come before a restore is done, however long this machine takes for one. */
  let withinMs = 120;
  for (; kills < KILLS || (!isShown() && kills < 10 * KILLS); kills++) {
    const server = await startFileProcess(scratch.path);
    const other = now === one ? two : one;
    const restoring = fileClient(server.port, id)
      .restore(other)
      .then(
        async (answer) => {
          expect(await answer.json()).toEqual({ files_restored: 60 });
          return true;
        },
        () => false,
      );
    await Bun.sleep(Math.random() * withinMs);
    await server.kill();
    const answered = await restoring;
    outcomes.leftBeside += existsSync(tmp) ? readdirSync(tmp).length : 0;
    const found = listingOf(live);
    const isNew = Bun.deepEquals(found, trees.get(other));
    // Never a mixture.
    expect(isNew ? found : trees.get(now)).toEqual(found);
    if (answered) expect(isNew).toBe(true);
    outcomes.answered += Number(answered);
    outcomes[isNew ? "new" : "old"] += 1;
    restores += Number(isNew);
    now = isNew ? other : now;
    withinMs *= isNew ? 0.8 : 1.25;
  }

  // What the last one left is settled too.
  const last = await startFileProcess(scratch.path);
  expect(readdirSync(tmp)).toEqual([]);
  expect(listingOf(live)).toEqual(trees.get(now) ?? []);
  await last.kill();
  console.log(`${kills} kills: ${JSON.stringify(outcomes)}`);
  expect(isShown()).toBe(true);

  const started = await startLedger({ dir: scratch.path });
  const restored = (await allEvents(started.db)).filter(({ type }) => type === "snapshot.restored");
  expect(await openIntents(started.db)).toBe(0);
  await started.close();
  // One event of each that happened and of none that did not, whether the process or the start after it wrote it.
  expect(restored.length).toBe(restores);
  for (const { data } of restored) expect(data).toMatchObject({ files_restored: 60 });
  for (const { data, settled } of restored) if (settled === true) expect(data["outcome"]).toBe("done");
}, 300_000);

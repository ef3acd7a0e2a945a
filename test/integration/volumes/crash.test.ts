import { expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { namespaceId } from "../../../src/ids.ts";
import { allEvents, openIntents } from "../../fixtures/chain.ts";
import { fileClient } from "../../fixtures/file-api.ts";
import { startFileProcess } from "../../fixtures/file-process.ts";
import { startLedger } from "../../fixtures/ledger.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { until } from "../../fixtures/until.ts";

const ROUNDS = 12;
const WRITERS = 4;
const PATHS = 5;

/** Content that tells whether it is whole, and which write it is of. */
function contentOf(version: number): string {
  const size = 1 + ((version * 7919) % 40_000);
  return `${version}:${size}:${String(version % 10).repeat(size)}:end`;
}

function hashOf(version: number): string {
  return new Bun.CryptoHasher("sha256").update(contentOf(version)).digest("hex");
}

function versionOf(content: string): number {
  const version = Number(content.split(":")[0]);
  expect(content.length).toBe(contentOf(version).length);
  expect(content === contentOf(version)).toBe(true);
  return version;
}

test("killed at any moment, it has every write that it acknowledged, each whole, and one event of it", async () => {
  using scratch = scratchDirectory();
  const id = namespaceId.make();
  /** Per path: the last write that was acknowledged, and the last that was tried, which may have happened. */
  const acknowledged = new Map<string, number>();
  const tried = new Map<string, number>();
  const allAcknowledged: string[] = [];
  let version = 0;
  let count = 0;
  let leftovers = 0;

  async function writer(client: ReturnType<typeof fileClient>, own: number): Promise<void> {
    for (;;) {
      // Each path has one writer, so that "last" has a meaning.
      const path = `w${own}/dir${++version % 3}/f${version % PATHS}`;
      tried.set(path, version);
      const mine = version;
      try {
        const answer = await (mine % 2 === 0
          ? client.put(path, contentOf(mine))
          : client.write(path, contentOf(mine)));
        if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
        await answer.json();
      } catch (error) {
        // The connection broke: it was killed.
        if (error instanceof Error && /^\d{3} /.test(error.message)) throw error;
        return;
      }
      acknowledged.set(path, mine);
      allAcknowledged.push(`workspace/${path} ${hashOf(mine)}`);
      count++;
    }
  }

  // Killed before its first write, it has no volume yet.
  const tmp = join(scratch.path, "volumes", id, "tmp");
  const unfinished = () => (existsSync(tmp) ? readdirSync(tmp) : []);
  for (let round = 0; round < ROUNDS; round++) {
    const server = await startFileProcess(scratch.path);
    const client = fileClient(server.port, id);
    expect(unfinished()).toEqual([]);
    for (const [path, last] of acknowledged) {
      const found = versionOf(await (await client.get(path)).text());
      expect(found).toBeGreaterThanOrEqual(last);
      expect(found).toBeLessThanOrEqual(tried.get(path)!);
      acknowledged.set(path, found);
    }
    const before = count;
    const writers = Array.from({ length: WRITERS }, (_, own) => writer(client, own));
    await until(() => count > before);
    await Bun.sleep(Math.random() * 150);
    await server.kill();
    await Promise.all(writers);
    leftovers += unfinished().length;
  }
  console.log(`${count} writes acknowledged over ${ROUNDS} kills; ${leftovers} unfinished files were swept`);
  expect(count).toBeGreaterThan(ROUNDS);
  expect(leftovers).toBeGreaterThan(0);

  // What the last one left is settled too.
  const last = await startFileProcess(scratch.path);
  await last.kill();
  const started = await startLedger({ dir: scratch.path });
  const [first, ...events] = await allEvents(started.db);
  expect(first?.type).toBe("workspace.created");
  const written = events.map(({ type, data, settled }) => {
    expect(type).toBe("file.written");
    return { what: `${String(data["path"])} ${String(data["sha256"])}`, settled };
  });
  expect(await openIntents(started.db)).toBe(0);
  await started.close();
  const counts = Map.groupBy(written, ({ what }) => what);
  // No two versions are alike, so that each has one event at most.
  expect(allAcknowledged.filter((what) => counts.get(what)?.length !== 1)).toEqual([]);
  const said = new Set(allAcknowledged);
  const unasked = written.filter(({ what }) => !said.has(what));
  console.log(`${written.length} events, ${unasked.length} of writes that were cut short`);
  // As many as a kill can cut short: happened and told of, whether by the process or by the start after it.
  expect(unasked.length).toBeLessThanOrEqual(ROUNDS * WRITERS);
  expect(written.filter(({ what }) => counts.get(what)!.length > 1)).toEqual([]);
}, 120_000);

test("of many writers to one path the last rename wins, and nothing is mixed", async () => {
  using scratch = scratchDirectory();
  const server = await startFileProcess(scratch.path);
  const client = fileClient(server.port, namespaceId.make());
  const contents = Array.from({ length: 60 }, (_, index) => contentOf(index));
  const state = { writing: true };
  const reader = (async () => {
    let reads = 0;
    while (state.writing) {
      const answer = await client.get("one/path");
      if (answer.status === 200) reads += Number(versionOf(await answer.text()) >= 0);
      else await answer.text();
    }
    return reads;
  })();
  const answers = await Promise.all(
    contents.map(async (content) => (await client.put("one/path", content)).status),
  );
  state.writing = false;
  expect(new Set(answers)).toEqual(new Set([200]));
  expect(await reader).toBeGreaterThan(0);
  versionOf(await (await client.get("one/path")).text());
  await server.kill();
});

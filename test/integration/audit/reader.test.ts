import { afterAll, beforeAll, expect, test } from "bun:test";
import { APPLIANCE, type Chain, type StoredEvent } from "../../../src/audit/event.ts";
import {
  ALL,
  createEventReader,
  type EventFilter,
  type EventReader,
  type EventRow,
  type Slice,
} from "../../../src/audit/reader.ts";
import { workspaceId } from "../../../src/ids.ts";
import { startLedger } from "../../fixtures/ledger.ts";
import { seededRandom } from "../../fixtures/random.ts";

const COUNT = 3000;
const TYPES = ["file.written", "exec.completed", "snapshot.created", "key.created"];
const NAMESPACES = ["a", "b", "rare", null];

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
const random = seededRandom(seed);
const int = (below: number) => random.int(below);
const pick = <T>(all: readonly T[]): T => all[int(all.length)]!;
const chance = (percent: number) => int(100) < percent;
const chains: Chain[] = [workspaceId.make(), workspaceId.make(), workspaceId.make()];
let started: Awaited<ReturnType<typeof startLedger>>;
let reader: EventReader;
/** All of them, in order of each chain. */
const stored: StoredEvent[] = [];

beforeAll(async () => {
  started = await startLedger();
  reader = createEventReader(started);
  for (let n = 0; n < COUNT; n += 100) {
    stored.push(
      ...(await started.ledger.append(
        Array.from({ length: 100 }, (_, index) => ({
          chain: pick(chains),
          type: chance(90) ? pick(TYPES.slice(0, 2)) : pick(TYPES),
          namespace: chance(95) ? pick(["a", "b"]) : pick(NAMESPACES),
          data: { n: n + index },
          origin: APPLIANCE,
        })),
      )),
    );
  }
});
afterAll(() => started.close());

/** The newest of a filter; from 200 on in several slices. */
async function newest(of: EventReader, filter: EventFilter, span = ALL, limit = 1): Promise<EventRow[]> {
  const slices: Slice[] = [];
  for await (const slice of of.newest(filter, span, limit)) slices.push(slice);
  const rows = slices.flatMap((slice) => slice.rows);
  // Only the last may say that there is no more.
  expect(slices.slice(0, -1).every(({ more }) => more)).toBe(true);
  if (rows.length < limit) expect(slices.at(-1)?.more).toBe(false);
  return rows;
}

function expected(
  { chain, namespace, types, lockedSince }: EventFilter,
  { after, before } = ALL,
): StoredEvent[] {
  return stored.filter(
    (event) =>
      event.chain === chain &&
      (namespace === null || event.namespace === namespace) &&
      (types === null || types.includes(event.type)) &&
      event.createdAt > Math.max(after, lockedSince ?? after) &&
      event.createdAt < before,
  );
}

test(`any filter and any span, in both directions, as a plain look through all events finds them (SEED=${seed})`, async () => {
  let found = 0;
  for (let round = 0; round < 400; round++) {
    const filter: EventFilter = {
      chain: pick(chains),
      namespace: pick([...NAMESPACES, "none such"]),
      types: pick([null, [pick(TYPES)], TYPES.slice(1), ["no.such"], ["no.such", "file.written"]]),
      lockedSince: chance(20) ? pick(stored).createdAt : null,
    };
    const edge = () => (chance(40) ? pick(stored).createdAt + int(3) - 1 : null);
    const span = { after: edge() ?? ALL.after, before: edge() ?? ALL.before };
    const limit = pick([1, 2, 50, COUNT]);
    const ids = (rows: { id: string }[]) => rows.map(({ id }) => id);
    expect(ids(await newest(reader, filter, span, limit))).toEqual(
      ids(expected(filter, span).toReversed().slice(0, limit)),
    );
    const after = { after: span.after, before: ALL.before };
    const next = await reader.next(filter, span.after, limit);
    expect(ids(next.rows)).toEqual(ids(expected(filter, after).slice(0, limit)));
    found += next.rows.length;
  }
  expect(found).toBeGreaterThan(1000);
});

test("a body is what is stored, and without its number all the rest", async () => {
  const filter: EventFilter = { chain: chains[0]!, namespace: null, types: null, lockedSince: null };
  const [whole] = await newest(reader, filter);
  const [bare] = await newest(reader, { ...filter, lockedSince: 0 });
  expect(whole?.body).toBe(expected(filter).at(-1)!.body);
  const { seq, ...rest } = JSON.parse(whole!.body) as { seq: number };
  expect(seq).toBe(expected(filter).length);
  expect(JSON.parse(bare!.body)).toEqual(rest);
});

test("a number in a string is left alone", async () => {
  const chain = workspaceId.make();
  const data = { text: '"seq":1,"x', seq: 7 };
  await started.ledger.append([
    { chain, type: "test.seq", namespace: null, data, origin: APPLIANCE, settled: true },
  ]);
  const [row] = await newest(reader, { chain, namespace: null, types: null, lockedSince: 0 });
  expect(JSON.parse(row!.body)).toMatchObject({ data, settled: true, workspace_id: chain });
  expect(JSON.parse(row!.body)).not.toHaveProperty("seq");
});

test("an event is found in its own chain alone", async () => {
  const one = stored.find(({ chain }) => chain === chains[0])!;
  expect(await reader.timeOf(chains[0]!, one.id)).toBe(one.createdAt);
  expect(await reader.timeOf(chains[1]!, one.id)).toBeNull();
  expect(await reader.timeOf(chains[0]!, "evt-aaaaaaaaaaaaaaaaaaaa")).toBeNull();
});

test("nothing is shown before it is on the disk", async () => {
  let synced = 0;
  const slow = createEventReader({
    db: started.db,
    ledger: {
      durable: async () => {
        await Bun.sleep(5);
        synced++;
      },
    },
  });
  const filter: EventFilter = { chain: chains[0]!, namespace: null, types: null, lockedSince: null };
  await newest(slow, filter);
  expect(synced).toBe(1);
  await slow.next(filter, 0, 1);
  expect(synced).toBe(2);
});

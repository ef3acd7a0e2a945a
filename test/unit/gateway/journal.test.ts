import { afterEach, beforeEach, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openJournal, type LlmRecord } from "../../../src/gateway/journal.ts";
import { credentialId, runId } from "../../../src/ids.ts";
import { createLog } from "../../../src/log.ts";

const run = runId.make();
const credential = credentialId.make();
const logged: string[] = [];
const log = createLog("gateway", (line) => void logged.push(line));
const place = { dir: "" };
const path = () => join(place.dir, `${run}.jsonl`);
const open = () => openJournal({ path: path(), run, log });

beforeEach(() => {
  place.dir = mkdtempSync(join(tmpdir(), "journal-"));
  logged.length = 0;
});
afterEach(() => rmSync(place.dir, { recursive: true }));

const wanted = {
  credential,
  model: "m",
  route: "/v1/messages",
  input_tokens: 100,
  output_tokens: 1000,
  usd_nano: 5_000,
};
const cost = (usd_nano: number): LlmRecord => ({
  kind: "llm",
  credential,
  model: "m",
  route: "/v1/messages",
  status: 200,
  input_tokens: 90,
  output_tokens: 10,
  cache_read_tokens: 0,
  cache_write_tokens: 0,
  usd_nano,
  estimated: false,
  first_byte_ms: 3,
  duration_ms: 5,
  content: null,
});
const denied = (detail: string) => ({
  kind: "denied" as const,
  lane: "llm" as const,
  reason: "model",
  detail,
  count: 1,
});

test("what is reserved counts until it is settled, and then what it cost", () => {
  const journal = open();
  const first = journal.reserve(wanted);
  const second = journal.reserve(wanted);
  expect(journal.spent(credential)).toEqual({
    requests: 2,
    input_tokens: 200,
    output_tokens: 2000,
    usd_nano: 10_000,
  });
  journal.settle(first, cost(70));
  journal.settle(first, cost(70));
  expect(journal.spent(credential)).toMatchObject({ requests: 2, usd_nano: 5_070, output_tokens: 1010 });
  journal.settle(second, cost(30));
  expect(journal.spent(credential)).toEqual({
    requests: 2,
    input_tokens: 180,
    output_tokens: 20,
    usd_nano: 100,
  });
  expect(journal.spent(credentialId.make()).requests).toBe(0);
});

test("after a kill what was settled counts as it was, and what was not in full, as a record of its own", async () => {
  const journal = open();
  journal.settle(journal.reserve(wanted), cost(70));
  journal.reserve(wanted);
  // No close: as kill -9 leaves it.
  const again = open();
  expect(again.spent(credential)).toMatchObject({ requests: 2, usd_nano: 5_070 });
  const records = await again.recordsAfter(0, 1e6);
  expect(records).toMatchObject([
    { seq: 1, usd_nano: 70, estimated: false, status: 200 },
    { seq: 2, usd_nano: 5_000, estimated: true, status: null, output_tokens: 1000 },
  ]);
  // And once more changes nothing.
  expect(await open().recordsAfter(0, 1e6)).toEqual(records);
  expect(open().reserve(wanted).id).toBe(3);
});

test("a line that is torn is cut off, one that is spoiled is left out and told", async () => {
  const journal = open();
  journal.append(denied("one"));
  appendFileSync(path(), "not a line\n");
  appendFileSync(path(), '{"record":{"kind":"den');
  const again = open();
  expect(logged.join("")).toContain("lines that can't be read");
  again.append(denied("two"));
  expect((await open().recordsAfter(0, 1e6)).map((one) => one.seq)).toEqual([1, 2]);
  expect(readFileSync(path(), "utf8")).toEndWith('"detail":"two","count":1}}\n');
});

test("records come in order, in pieces, from memory and from the file alike", async () => {
  const journal = open();
  for (let number = 1; number <= 1000; number++) journal.append(denied(`${number}`));
  for (const subject of [journal, open()]) {
    const seen: string[] = [];
    for (let seq = 0; seq < 1000;) {
      const records = await subject.recordsAfter(seq, 10_000);
      expect(records.length).toBeGreaterThan(0);
      for (const record of records) {
        expect(record.seq).toBe((seq += 1));
        if (record.kind === "denied") seen.push(record.detail);
      }
    }
    expect(seen).toEqual(Array.from({ length: 1000 }, (_, at) => `${at + 1}`));
    expect(await subject.recordsAfter(1000, 10_000)).toEqual([]);
    // One that is larger than what fits comes alone.
    expect(await subject.recordsAfter(998, 1)).toHaveLength(1);
  }
});

test("what a lane keeps is there after a restart, what it dropped is not", async () => {
  const journal = open();
  await journal.keep("token 1", { sealed: "AAA" });
  await journal.keep("token 2", { sealed: "BBB" });
  journal.drop("token 1");
  expect([...open().kept()]).toEqual([["token 2", { sealed: "BBB" }]]);
});

test("a reservation that can't be written is none, and the lines after it are whole", () => {
  writeFileSync(path(), "");
  const journal = open();
  journal.close();
  expect(() => journal.reserve(wanted)).toThrow();
  expect(journal.spent(credential).requests).toBe(0);
});

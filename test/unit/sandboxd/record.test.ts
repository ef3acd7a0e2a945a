import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { namespaceId, sandboxId } from "../../../src/ids.ts";
import { readRecord, writeRecord, type SandboxRecord } from "../../../src/sandboxd/record.ts";

const dir = mkdtempSync(join(tmpdir(), "record-"));
afterAll(() => rmSync(dir, { recursive: true }));

const id = sandboxId.make();
const names = { id, record: join(dir, "record.json") } as Parameters<typeof readRecord>[0];
const record: SandboxRecord = {
  sandbox: id,
  nonce: "ab".repeat(32),
  process: { pid: 12, startTime: 3456 },
  startedAt: new Date(0).toISOString(),
  namespace: null,
  make: "x",
};

test("what was written is read, the newest of it", () => {
  expect(readRecord(names)).toBeUndefined();
  writeRecord(names, record);
  expect(readRecord(names)).toEqual(record);
  const given = { ...record, namespace: namespaceId.make() };
  writeRecord(names, given);
  expect(readRecord(names)).toEqual(given);
});

test("a record that is cut, changed or another's counts as none", () => {
  const text = JSON.stringify(record);
  const bad = [
    text.slice(0, 40),
    "",
    "null",
    JSON.stringify({ ...record, process: { pid: -1, startTime: 0 } }),
  ];
  bad.push(JSON.stringify({ ...record, sandbox: sandboxId.make() }), JSON.stringify({ ...record, extra: 1 }));
  for (const content of bad) {
    writeFileSync(names.record, content);
    expect(readRecord(names)).toBeUndefined();
  }
});

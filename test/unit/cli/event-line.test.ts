import { expect, test } from "bun:test";
import { cellsOf, eventRow } from "../../../src/cli/event-line.ts";

const event = (over: object) =>
  eventRow.parse({
    id: "evt-a",
    type: "file.written",
    created_at: "2026-11-26T20:18:51.123456Z",
    namespace: "alice",
    actor_key_id: "key-a",
    actor_local_user: null,
    data: { path: "workspace/a.txt", size_bytes: 5, label: null },
    ...over,
  });

test("what there is to know of an event, in cells", () => {
  expect(cellsOf(event({}))).toEqual({
    time: "2026-11-26 20:18:51",
    type: "file.written",
    namespace: "alice",
    by: "key-a",
    what: "path=workspace/a.txt size_bytes=5",
  });
  const other = event({
    namespace: null,
    actor_key_id: null,
    actor_local_user: "root",
    settled: true,
    data: { ok: true },
  });
  expect(cellsOf(other)).toMatchObject({ namespace: "-", by: "root", what: "ok=true settled=true" });
});

test("nothing of a tenant's reaches the terminal as anything but text", () => {
  const command = "\u001b[2J\u009b31m\u202egnp.exe\u2028\u0000\n\u{e0041}end";
  const { what } = cellsOf(event({ data: { command } }));
  expect(what).not.toMatch(/[^ -~…]/);
  expect(what).toStartWith(String.raw`command="\u001b[2J\u009b31m\u202egnp.exe`);
  expect(cellsOf(event({ data: { command: "é ü 日本" } })).what).toBe('command="é ü 日本"');
  expect(cellsOf(event({ data: { command: "x".repeat(5000) } })).what.length).toBeLessThan(60);
});

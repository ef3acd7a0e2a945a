import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { searchFiles } from "../../../src/prove/file-search.ts";

test("texts are found in what has changed since, wherever they stand in it, and nothing waits for a FIFO", async () => {
  const directory = mkdtempSync(join(tmpdir(), "search-"));
  const at = (name: string, content: string) => {
    writeFileSync(join(directory, name), content);
    return join(directory, name);
  };
  at("before", "needle");
  await Bun.sleep(50);
  const since = Date.now();
  await Bun.sleep(50);
  mkdirSync(join(directory, "below"));
  const plain = at("below/plain", "a needle in it");
  // Across the border of two pieces.
  const large = at("large", `${"x".repeat(1024 * 1024 - 3)}needle${"x".repeat(100)}`);
  const other = at("other one", "straw");
  symlinkSync("/etc/passwd", join(directory, "link"));
  Bun.spawnSync(["mkfifo", join(directory, "fifo")]);
  const { found, count } = await searchFiles([directory, join(directory, "absent")], since, [
    "needle",
    "straw",
    "hay",
  ]);
  expect(found.map((files) => files.toSorted())).toEqual([[plain, large].toSorted(), [other], []]);
  expect(count).toBe(3);
});

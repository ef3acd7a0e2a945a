import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "bun:test";
import { openScratch } from "../../../src/cli/scratch.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

test("what a killed process has left goes with the next; what one uses stays until it is done", () => {
  using parent = scratchDirectory();
  const left = join(parent.path, "cofferdam-verify-killed");
  mkdirSync(join(left, "database"), { recursive: true });
  writeFileSync(join(left, "database/cofferdam.db"), "in the clear");
  writeFileSync(join(parent.path, "cofferdam-verify-file"), "somebody's");
  mkdirSync(join(parent.path, "another's"));
  const one = openScratch(parent.path);
  expect(existsSync(left)).toBe(false);
  {
    using other = openScratch(parent.path);
    expect(other.dir).not.toBe(one.dir);
    expect(existsSync(one.dir)).toBe(true);
  }
  one[Symbol.dispose]();
  expect(readdirSync(parent.path).toSorted()).toEqual(["another's", "cofferdam-verify-file"]);
});

import { afterAll, beforeAll, expect, test } from "bun:test";
import { box } from "./stage.ts";

type Box = Awaited<ReturnType<typeof box>>;
let at: Box;
beforeAll(async () => {
  at = await box();
}, 300_000);
afterAll(async () => {
  expect(await at.end()).toEqual([]);
});

test("a run prints, writes into its worktree, and ends with its exit code", async () => {
  const ran = await at.ran("id -u; pwd; echo hi >f; echo oops >&2; exit 7");
  expect(ran).toMatchObject({ exit_code: 7, cause: "exit", out: "10000\n/work\n", err: "oops\n" });
});

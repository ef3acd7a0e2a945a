import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { amount } from "../../../fixtures/amount.ts";
import { allEvents, openIntents } from "../../../fixtures/chain.ts";
import { scratchDirectory } from "../../../fixtures/scratch.ts";
import { worktreeFixture } from "../../../fixtures/worktrees.ts";

const KILLS = amount("MERGE_KILLS", 5);
const FILES = 3 * 80;

function start(dir: string, namespace: string, generation: number | "") {
  const script = join(import.meta.dir, "../../../fixtures/merge-process.ts");
  const child = Bun.spawn([process.execPath, script, dir, namespace, String(generation)], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  const said = { text: "" };
  const wakers = new Set<() => void>();
  const reading = (async () => {
    for await (const chunk of child.stdout) {
      said.text += new TextDecoder().decode(chunk);
      for (const wake of wakers) wake();
    }
    for (const wake of wakers) wake();
  })();
  return {
    /** Resolves when it has said so, or ended. */
    async until(word: string): Promise<void> {
      while (!said.text.includes(word) && child.exitCode === null && child.signalCode === null) {
        await Promise.race([child.exited, new Promise<void>((resolve) => wakers.add(resolve))]);
      }
    },
    async end(how: "kill" | "wait" = "wait"): Promise<string> {
      if (how === "kill") child.kill("SIGKILL");
      await child.exited;
      await reading;
      return said.text;
    },
  };
}

/** The generation that all files are of; an error when they are of several. */
function generationOf(live: string): number {
  const found = new Set<string>();
  let files = 0;
  for (const path of readdirSync(live, { recursive: true }).map(String)) {
    const named = /^(?:moved|gone)-(\d+)/.exec(path)?.[1];
    if (named !== undefined) found.add(named);
    if (!statSync(join(live, path)).isFile()) continue;
    files += 1;
    const [content] = readFileSync(join(live, path), "utf8").split(" ", 1);
    if (content !== undefined && content !== "") found.add(content);
  }
  if (found.size > 1) throw new Error(`files of ${[...found].join(" and ")}`);
  if (found.size === 1) expect(files).toBe(FILES);
  return Number([...found][0] ?? 0);
}

test("killed at any moment of a merge, all of it is there or nothing, and the log says which", async () => {
  using scratch = scratchDirectory();
  const dir = scratch.path;
  const first = await worktreeFixture({ dir });
  const namespace = await first.namespace();
  await first[Symbol.asyncDispose]();
  const { id, live, tmp } = namespace;
  const outcomes = { old: 0, new: 0, answered: 0, decided: 0, undecided: 0 };
  let now = 0;
  let kills = 0;
  const isShown = () =>
    outcomes.old > 0 && outcomes.new > 0 && outcomes.decided > 0 && outcomes.undecided > 0;
  /** So that some kills come after the merge, however long this machine takes for one. */
  let share = 1;
  for (; kills < KILLS || (!isShown() && kills < 8 * KILLS); kills++) {
    const child = start(dir, id, now + 1);
    const late = kills % 3 !== 0;
    await child.until(late ? "alone" : "merging");
    await Bun.sleep(Math.random() * (late ? 60 : 250) * share);
    const said = await child.end("kill");
    const left = existsSync(tmp) ? readdirSync(tmp) : [];
    if (left.includes("redo")) outcomes.decided += 1;
    else if (left.length > 0) outcomes.undecided += 1;
    // What a start makes of it.
    expect(await start(dir, id, "").end()).toBe("");
    const found = generationOf(live);
    expect([now, now + 1]).toContain(found);
    if (left.includes("redo")) expect(found).toBe(now + 1);
    if (said.includes("merged")) {
      outcomes.answered += 1;
      expect(found).toBe(now + 1);
    }
    outcomes[found === now ? "old" : "new"] += 1;
    share *= found === now ? 1.25 : 0.8;
    now = found;
  }
  console.log(`${kills} kills: ${JSON.stringify(outcomes)}`);
  expect(isShown()).toBe(true);

  const after = await worktreeFixture({ dir });
  const merged = (await allEvents(after.db)).filter(({ type }) => type === "run.merged");
  expect(await openIntents(after.db)).toBe(0);
  // One event and one merged row for each that happened, and none for what did not.
  expect(merged.length).toBe(now);
  expect(new Set(merged.map(({ data }) => data["run_id"])).size).toBe(now);
  for (const { data, settled } of merged) if (settled === true) expect(data["outcome"]).toBe("done");
  for (const { data } of merged) {
    const row = await after.row(data["run_id"] as Parameters<typeof after.row>[0]);
    expect(row).toMatchObject({ worktree: "merged", base: null });
    expect(existsSync(join(dir, "runs", row.id))).toBe(false);
  }
  await after[Symbol.asyncDispose]();
}, 180_000);

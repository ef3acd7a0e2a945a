import { afterAll, beforeAll, expect, test } from "bun:test";
import { amount } from "../fixtures/amount.ts";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { runCalls } from "../fixtures/run-calls.ts";
import { until } from "../fixtures/until.ts";

/** Takes four seconds each. */
const KILLS = amount("E2E_MERGE_KILLS", 2);

let appliance: Appliance;
const { startRun, runOf, over } = runCalls(() => appliance);
beforeAll(async () => {
  appliance = await startAppliance();
});
afterAll(async () => appliance.stop());

async function ended(command: string): Promise<string> {
  const run = await startRun({ command });
  expect(await over(run)).toMatchObject({ status: "succeeded" });
  return run;
}

async function exec(command: string): Promise<string> {
  const answer = await appliance.call("/v1/exec", { json: { command } });
  return ((await answer.json()) as { stdout: string }).stdout;
}

const merge = async (run: string, body?: object) =>
  appliance.call(`/v1/runs/${run}/merge`, body === undefined ? { method: "POST" } : { json: body });

test("a conflict is named and changes nothing; on_conflict says whose side counts", async () => {
  await exec("cd workspace; printf base >a; printf base >b; mkdir d; printf x >d/x");
  const run = await ended("printf run >a; printf run >b; printf run >c; rm -r d");
  await exec("cd workspace; printf ns >a; printf ns >d/added");
  const refused = await merge(run);
  expect([refused.status, await refused.json()]).toEqual([
    409,
    {
      detail:
        "Nothing was merged: both the run and the namespace have changed a. Say whose side counts by on_conflict: run or namespace.",
      merged: false,
      conflicts: [{ path: "a", run: "modified", namespace: "modified" }],
      truncated: false,
    },
  ]);
  const json = await appliance.cofferdam(["run", "merge", run, "--json"], { expect: 1 });
  expect(JSON.parse(json.stdout)).toMatchObject({
    merged: false,
    conflicts: [{ path: "a", run: "modified", namespace: "modified" }],
  });
  const told = await appliance.cofferdam(["run", "merge", run], { expect: 1 });
  expect(told.stdout).toMatch(/^PATH +RUN +NAMESPACE\na +modified +modified\n$/);
  expect(told.stderr).toContain("--on-conflict run");
  const misspelt = await merge(run, { on_conflicts: "run" });
  expect(misspelt.status).toBe(422);
  const merged = await merge(run, { on_conflict: "namespace" });
  expect([merged.status, await merged.json()]).toEqual([
    200,
    { merged: true, files: 3, conflicts: [], resolved: 1, skipped: 0 },
  ]);
  // As the commands of the namespace's warm sandbox see it at once.
  expect(await exec("cd workspace; for f in a b c d/*; do echo $f $(cat $f); done")).toBe(
    "a ns\nb run\nc run\nd/added ns\n",
  );
  expect((await runOf(run)).worktree.state).toBe("merged");
  expect((await merge(run)).status).toBe(409);
  expect((await appliance.call(`/v1/runs/${run}/diff`)).status).toBe(409);
});

test("a run that goes on is shown, and neither merged nor discarded", async () => {
  const run = await startRun({ command: "echo now >during; exec sleep 600" });
  const changes = async () => {
    const diff = await appliance.call(`/v1/runs/${run}/diff`);
    return diff.ok ? ((await diff.json()) as { changes: { path: string }[] }).changes : [];
  };
  await until(async () => (await changes()).some(({ path }) => path === "during"));
  expect((await merge(run)).status).toBe(409);
  expect((await appliance.call(`/v1/runs/${run}/discard`, { method: "POST" })).status).toBe(409);
  await appliance.call(`/v1/runs/${run}/cancel`, { method: "POST" });
  expect(await over(run)).toMatchObject({ status: "cancelled" });
  const discarded = await appliance.call(`/v1/runs/${run}/discard`, { method: "POST" });
  expect([discarded.status, await discarded.json()]).toEqual([200, { discarded: run }]);
  expect((await runOf(run)).worktree.state).toBe("discarded");
});

test("kill -9 of api in the middle of a merge: all of it is there or nothing, in the warm sandbox too", async () => {
  await exec("cd workspace; rm -rf *; for n in $(seq 300); do echo 0 >f$n; done");
  const outcomes = { all: 0, nothing: 0 };
  let generation = 0;
  for (let round = 0; round < KILLS; round++) {
    const next = generation + 1;
    const run = await ended(
      `for n in $(seq 300); do echo ${next} >f$n; done; rm -rf g*; mkdir g${next}; touch g${next}/x`,
    );
    const merging = merge(run).catch(() => null);
    await Bun.sleep(Math.random() * 400);
    process.kill(appliance.pid("api"), "SIGKILL");
    await merging;
    const state = await until(async () => (await runOf(run).catch(() => null))?.worktree.state, 30_000);
    const found = await until(async () => {
      const said = await exec("cd workspace; cat f* | sort -u | tr '\\n' ' '; ls -d g*").catch(() => null);
      return said === null || said === undefined ? null : said;
    }, 120_000);
    const before = generation === 0 ? "0 " : `${generation} g${generation}\n`;
    expect([before, `${next} g${next}\n`]).toContain(found);
    const isAll = found !== before;
    expect(state).toBe(isAll ? "merged" : "ready");
    outcomes[isAll ? "all" : "nothing"] += 1;
    if (isAll) generation = next;
    else await appliance.call(`/v1/runs/${run}/discard`, { method: "POST" });
  }
  console.log(`${KILLS} kills: ${JSON.stringify(outcomes)}`);
}, 120_000);

import { afterAll, beforeAll, expect, test } from "bun:test";
import { amount } from "../fixtures/amount.ts";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { until } from "../fixtures/until.ts";

/** Takes four seconds each. */
const KILLS = amount("E2E_MERGE_KILLS", 2);

let appliance: Appliance;
beforeAll(async () => {
  appliance = await startAppliance();
});
afterAll(async () => appliance.stop());

interface Shown {
  run_id: string;
  status: string;
  worktree: { state: string };
}

async function get(id: string): Promise<Shown> {
  const answer = await appliance.call(`/v1/runs/${id}`);
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  return (await answer.json()) as Shown;
}

async function ended(command: string): Promise<string> {
  const answer = await appliance.call("/v1/runs", { json: { command } });
  const text = await answer.text();
  expect([answer.status, text]).toEqual([201, text]);
  const { run_id } = JSON.parse(text) as Shown;
  await until(async () => !["queued", "preparing", "running"].includes((await get(run_id)).status), 60_000);
  expect((await get(run_id)).status).toBe("succeeded");
  return run_id;
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
    },
  ]);
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
  expect((await get(run)).worktree.state).toBe("merged");
  expect((await merge(run)).status).toBe(409);
  expect((await appliance.call(`/v1/runs/${run}/diff`)).status).toBe(409);
});

test("a run that goes on is shown, and neither merged nor discarded", async () => {
  const answer = await appliance.call("/v1/runs", { json: { command: "echo now >during; exec sleep 600" } });
  const { run_id } = (await answer.json()) as Shown;
  const changes = async () => {
    const diff = await appliance.call(`/v1/runs/${run_id}/diff`);
    return diff.ok ? ((await diff.json()) as { changes: { path: string }[] }).changes : [];
  };
  await until(async () => (await changes()).some(({ path }) => path === "during"));
  expect((await merge(run_id)).status).toBe(409);
  expect((await appliance.call(`/v1/runs/${run_id}/discard`, { method: "POST" })).status).toBe(409);
  await appliance.call(`/v1/runs/${run_id}/cancel`, { method: "POST" });
  await until(async () => (await get(run_id)).status === "cancelled", 30_000);
  const discarded = await appliance.call(`/v1/runs/${run_id}/discard`, { method: "POST" });
  expect([discarded.status, await discarded.json()]).toEqual([200, { discarded: run_id }]);
  expect((await get(run_id)).worktree.state).toBe("discarded");
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
    const state = await until(async () => (await get(run).catch(() => null))?.worktree.state, 30_000);
    const found = await until(async () => {
      const said = await exec("cd workspace; cat f* | sort -u | tr '\\n' ' '; ls -d g*").catch(() => null);
      return said === null || said === undefined ? null : said;
    }, 30_000);
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

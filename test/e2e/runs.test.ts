import { afterAll, beforeAll, expect, test } from "bun:test";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { hostState } from "../fixtures/host-state.ts";
import { EMPTY, runCalls, type RunShown } from "../fixtures/run-calls.ts";
import { until } from "../fixtures/until.ts";

// Of runs that come at once one has a spare, and the others boot.
const CONFIG = "[exec]\npool = 0\n[runs]\npool = 1\n";

let appliance: Appliance;
const { startRun, runOf, over, outputOf } = runCalls(() => appliance);
beforeAll(async () => {
  appliance = await startAppliance({ config: CONFIG });
});
afterAll(async () => {
  await appliance.stop();
  expect(hostState(appliance.inst)).toEqual([]);
});

async function ended(body: object) {
  const id = await startRun(body);
  const run = await over(id);
  return { run, text: await outputOf(id) };
}

test("a command runs to its end, as nobody, with what it was given and nothing else", async () => {
  const { run, text } = await ended({
    ...EMPTY,
    command: "id -u; pwd; cat; env | cut -d= -f1 | sort | tr '\\n' ' '; exit 3",
    stdin: "typed\n",
    env: { MINE: "1" },
  });
  expect(run).toMatchObject({ status: "failed", exit_code: 3, error: null });
  const [uid, cwd, typed, names] = text.split("\n");
  expect([uid, cwd, typed]).toEqual(["10000", "/work", "typed"]);
  expect(
    names
      ?.trim()
      .split(" ")
      .filter((name) => !["_", "SHLVL", "OLDPWD"].includes(name)),
  ).toEqual(["COFFERDAM_RUN_ID", "HOME", "LANG", "LOGNAME", "MINE", "PATH", "PWD", "SHELL", "TERM", "USER"]);
  expect(run.usage.peak_memory_mb).toBeGreaterThan(1);
  expect(run.usage.cpu_s).toBeGreaterThan(0);
  expect(run.timings["first_output_ms"]).toBeGreaterThan(0);
});

test("a fork has the namespace's files, shows what has changed, and is merged when it succeeds", async () => {
  await appliance.call("/write", { json: { path: "notes.txt", content: "one\n" } });
  const kept = await ended({ command: "cat notes.txt; echo two >> notes.txt; echo new > other.txt" });
  expect([kept.run.status, kept.text]).toEqual(["succeeded", "one\n"]);
  const answer = await appliance.call(`/v1/runs/${kept.run.run_id}/diff`);
  const diff = (await answer.json()) as { changes: { path: string; change: string; patch: string }[] };
  expect(diff.changes).toMatchObject([
    { path: "notes.txt", change: "modified" },
    { path: "other.txt", change: "added" },
  ]);
  expect(diff.changes[0]?.patch).toContain("+two");
  expect(await (await appliance.call("/files/notes.txt")).text()).toBe("one\n");
  const merged = await ended({ command: "echo merged > third.txt", on_success: "merge" });
  await until(async () => (await runOf(merged.run.run_id)).worktree.state === "merged");
  expect(await (await appliance.call("/files/third.txt")).text()).toBe("merged\n");
  const { run } = await ended({ command: "echo gone > fourth.txt", on_success: "discard" });
  await until(async () => (await runOf(run.run_id)).worktree.state === "discarded");
  expect((await appliance.call("/files/fourth.txt")).status).toBe(404);
});

test("a run is cancelled, runs out of time, out of memory and out of disk, and says which", async () => {
  const [cancelled, late, hungry, large] = await Promise.all([
    startRun({ ...EMPTY, command: "trap 'echo asked; exit 7' TERM; echo begun; sleep 600 & wait" }),
    startRun({ ...EMPTY, command: "echo begun; exec sleep 600", limits: { timeout_s: 1 } }),
    startRun({ ...EMPTY, command: "head -c 500M /dev/zero | tail", limits: { memory_mb: 128 } }),
    startRun({
      ...EMPTY,
      command: "for n in 1 2 3; do head -c 8M /dev/zero > $n; sleep 1; done; sleep 600",
      limits: { disk_mb: 16 },
    }),
  ]);
  await until(async () => (await outputOf(cancelled)).includes("begun"));
  expect((await appliance.call(`/v1/runs/${cancelled}/cancel`, { method: "POST" })).status).toBe(200);
  expect(await over(cancelled)).toMatchObject({ status: "cancelled", exit_code: 7 });
  expect(await outputOf(cancelled)).toBe("begun\nasked\n");
  expect(await over(late)).toMatchObject({ status: "timed_out" });
  expect(await over(hungry)).toMatchObject({ status: "failed", exit_code: 137 });
  expect(await over(large)).toMatchObject({ status: "failed" });
  expect((await runOf(large)).error).toMatch(/16 MiB of disk/);
}, 60_000);

/** So many numbered lines, one every 20 ms, then an exit code that is its own. */
const LINES = 150;
const counting = (code: number) => ({
  ...EMPTY,
  command: `for n in $(seq ${LINES}); do echo line $n; sleep 0.02; done; exit ${code}`,
});
const allLines = Array.from({ length: LINES }, (_, n) => `line ${n + 1}\n`).join("");

test("kill -9 of api and gateway while runs print: all of the output, each run's own exit code", async () => {
  const runs = await Promise.all(
    [1, 2, 3, 4].map(async (code) => ({ code, id: await startRun(counting(code)) })),
  );
  for (const role of ["api", "gateway", "api", "gateway", "api"] as const) {
    await Bun.sleep(100 + Math.random() * 700);
    try {
      process.kill(appliance.pid(role), "SIGKILL");
    } catch {
      // It is not back yet.
    }
  }
  for (const { code, id } of runs) {
    expect(await over(id)).toMatchObject({ status: "failed", exit_code: code, error: null });
    expect(await outputOf(id)).toBe(allLines);
  }
}, 90_000);

test("kill -9 of sandboxd, and everything with it, while runs print: none shows running with nothing behind it", async () => {
  const runs = await Promise.all([5, 6].map(async (code) => ({ code, id: await startRun(counting(code)) })));
  await until(async () => (await outputOf(runs[0]?.id ?? "")).includes("line 5\n"));
  await appliance.stop("SIGKILL");
  appliance = await startAppliance({ config: CONFIG, data: appliance.data });
  for (const { code, id } of runs) {
    expect(await over(id)).toMatchObject({ status: "failed", exit_code: code, error: null });
    expect(await outputOf(id)).toBe(allLines);
  }
}, 90_000);

test("the command line starts a run, follows it, and exits as it does", async () => {
  const { stdout } = await appliance.cofferdam(
    ["run", "start", "test", "--from", "empty", "--follow", "--", "echo out; echo err >&2; exit 4"],
    { expect: 4 },
  );
  expect(stdout).toBe("out\n");
  const list = await appliance.cofferdam(["run", "list", "test", "--json"]);
  const [newest] = (JSON.parse(list.stdout) as { runs: RunShown[] }).runs;
  expect(newest).toMatchObject({ status: "failed", exit_code: 4 });
});

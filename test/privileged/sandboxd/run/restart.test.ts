import { afterEach, beforeAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { runNames } from "../../../../src/sandboxd/run/names.ts";
import { hostState } from "../../../fixtures/host-state.ts";
import { killable, type Daemon } from "./killable.ts";
import { processesOf } from "./stage.ts";

let at: ReturnType<typeof killable>;
beforeAll(() => {
  at = killable();
}, 300_000);

const daemons: Daemon[] = [];
afterEach(async () => {
  for (const daemon of daemons.splice(0)) await daemon.kill();
});
async function start(): Promise<Daemon> {
  const daemon = await at.start();
  daemons.push(daemon);
  return daemon;
}

async function fateOf({ client }: Daemon, run: { id: ReturnType<typeof at.make>["id"] }) {
  for (;;) {
    const state = await client.call("inspectRun", { run: run.id });
    if (state.state === "ended") return state.fate;
    if (state.state === "unknown") return null;
    await Bun.sleep(10);
  }
}

test("after kill -9 a run goes on, is found again, and its end is seen, in or out of sandboxd's time", async () => {
  const [ends, lives, dies, late] = [at.make(), at.make(), at.make(), at.make()];
  const first = await start();
  await Promise.all([
    first.begin(ends, "echo up; until [ -e go ]; do sleep 0.02; done; echo last words; exit 5"),
    first.begin(lives, "echo up; until [ -e go ]; do sleep 0.02; done; exit 6"),
    first.begin(dies, "echo up; sleep 60"),
    first.begin(late, "echo up; sleep 60", 2),
  ]);
  for (const run of [ends, lives, dies, late]) await run.saw("up");
  await first.kill();

  await Bun.write(`${ends.work}/go`, "");
  await ends.saw("last words");
  const sandbox = processesOf(dies.id).find(({ argv }) => argv.startsWith("runsc-sandbox "));
  process.kill(sandbox?.pid ?? 0, "SIGKILL");

  const second = await start();
  expect(await fateOf(second, ends)).toMatchObject({ cause: "exit", exit_code: 5 });
  expect(await fateOf(second, dies)).toMatchObject({ cause: "lost", exit_code: null });
  expect(await fateOf(second, late)).toMatchObject({ cause: "timeout" });
  const waits = second.client.call("awaitEnds", { timeout_ms: 1 });
  expect(new Set((await waits).ended)).toEqual(new Set([ends.id, dies.id, late.id]));
  expect(await second.client.call("inspectRun", { run: lives.id })).toMatchObject({ state: "running" });
  await Bun.write(`${lives.work}/go`, "");
  expect(await fateOf(second, lives)).toMatchObject({ cause: "exit", exit_code: 6 });
  await second.kill();

  // What is known is known to the next one, too.
  const third = await start();
  expect(await fateOf(third, ends)).toMatchObject({ cause: "exit", exit_code: 5 });
  for (const run of [ends, lives, dies, late]) {
    await third.client.call("forgetRun", { run: run.id });
    run.close();
  }
  expect(hostState(at.instance.inst)).toEqual([]);
}, 60_000);

test("one whose runsc is just ending when sandboxd comes back has its exit code", async () => {
  const run = at.make();
  const first = await start();
  await first.begin(run, "echo up; until [ -e go ]; do sleep 0.02; done; exit 7");
  await run.saw("up");
  await first.kill();
  // As runsc leaves it in the moment before its shim has written down how it ended.
  const { runscState } = runNames(at.instance, run.id);
  const state = JSON.parse(readFileSync(runscState, "utf8")) as object;
  writeFileSync(runscState, JSON.stringify({ ...state, status: "stopped" }));
  const second = await start();
  await Bun.write(`${run.work}/go`, "");
  expect(await fateOf(second, run)).toMatchObject({ cause: "exit", exit_code: 7 });
  await second.client.call("forgetRun", { run: run.id });
  run.close();
  expect(hostState(at.instance.inst)).toEqual([]);
}, 60_000);

test("kill -9 at any moment of a start leaves nothing that the next one does not settle", async () => {
  const all = process.env["COFFERDAM_TEST_LONG"] !== undefined;
  for (const delayMs of all ? [1, 10, 20, 30, 60, 90, 120, 150, 200] : [30, 120]) {
    const daemon = await start();
    const runs = [at.make(), at.make()];
    const calls = runs.map((run) => daemon.client.call("startRun", { run: run.id }).catch(() => {}));
    await Bun.sleep(delayMs);
    await daemon.kill();
    await Promise.all(calls);
    const next = await start();
    for (const run of runs) {
      // It is whole, or there is nothing of it and it can be started anew.
      const { state } = await next.client.call("inspectRun", { run: run.id });
      expect(["running", "unknown"]).toContain(state);
      await next.client.call("startRun", { run: run.id });
      await next.client.call("stopRun", { run: run.id });
      await next.client.call("forgetRun", { run: run.id });
      run.close();
    }
    expect([delayMs, hostState(at.instance.inst)]).toEqual([delayMs, []]);
    await next.kill();
  }
}, 60_000);

import { afterAll, beforeAll, expect, test } from "bun:test";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";

let appliance: Appliance;
beforeAll(async () => {
  appliance = await startAppliance({ config: "[exec]\npool = 0\n" });
});
afterAll(async () => {
  await appliance.stop();
});

interface Shown {
  run_id: string;
  status: string;
  exit_code: number | null;
  error: string | null;
  timings: Record<string, number>;
}

async function start(body: object): Promise<Shown> {
  const answer = await appliance.call("/v1/runs", { json: body });
  const text = await answer.text();
  expect([answer.status, text]).toEqual([201, text]);
  return JSON.parse(text) as Shown;
}

async function over(id: string): Promise<Shown> {
  for (let tries = 0; tries < 600; tries++) {
    const run = (await (await appliance.call(`/v1/runs/${id}`)).json()) as Shown;
    if (!["queued", "preparing", "running"].includes(run.status)) return run;
    await Bun.sleep(50);
  }
  throw new Error(`${id} is not over:\n${await runLines()}`);
}

test("a command runs to its end, in a worktree of its own, as nobody", async () => {
  const made = await start({
    command: "id -u; pwd; env | sort; cat; exit 3",
    worktree: { from: "empty" },
    stdin: "typed\n",
    env: { MINE: "1" },
  });
  const run = await over(made.run_id);
  expect(run).toMatchObject({ status: "failed", exit_code: 3, error: null });
});

/** The appliance's log without the requests. */
async function runLines(): Promise<string> {
  const text = await Bun.file(`${appliance.data}.log`).text();
  return text
    .split("\n")
    .filter((line) => !line.includes('"message":"request"'))
    .slice(-60)
    .join("\n");
}

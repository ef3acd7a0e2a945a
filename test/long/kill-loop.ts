import { expect } from "bun:test";
import { readdirSync } from "node:fs";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { halves } from "../fixtures/halves.ts";
import { hostState } from "../fixtures/host-state.ts";
import { seededRandom } from "../fixtures/random.ts";
import { MENDED } from "./changes.ts";
import { startLoad } from "./load.ts";

const CONFIG = "[exec]\npool = 1\n";
/** Another role than api dies too after so many of its kills, and the audit comes after so many. */
const OTHER_EVERY = 4;
const AUDIT_EVERY = 10;

/** Commands run again: all that a kill broke is mended. */
async function mended(appliance: Appliance): Promise<void> {
  let last = "";
  for (let tries = 0; tries < 600; tries++) {
    const init = { namespace: "files-0", json: { command: MENDED } };
    last = await appliance
      .call("/v1/exec", init)
      .then(async (answer) => `${answer.status} ${await answer.text()}`, String);
    if (last.startsWith("200") && last.includes('"up\\n"')) return;
    await Bun.sleep(50);
  }
  throw new Error(`not mended within 30 s: ${last}\n${await appliance.log()}`);
}

/**
 * Kills api that often at random moments of a mixed load, and another role now and then. Nothing acknowledged may be
 * lost, no answer wrong, nothing left over, and the audit log has to tell of each change once.
 */
export async function killAtRandom(kills: number): Promise<void> {
  const seed = Number(process.env["SEED"] ?? Date.now() % 2 ** 32);
  console.log(`seed ${seed}`);
  const random = seededRandom(seed);
  const killed = { api: 0, serve: 0, gateway: 0 };
  const now = { appliance: await startAppliance({ config: CONFIG }) };
  const load = startLoad(() => now.appliance);

  async function kill(role: keyof typeof killed): Promise<void> {
    killed[role] += 1;
    if (role === "serve") {
      await now.appliance.stop("SIGKILL");
      now.appliance = await startAppliance({ config: CONFIG, data: now.appliance.data });
    } else process.kill(await pidOf(role), "SIGKILL");
  }

  /** The role may be waiting for its next start: one that died often waits longer. */
  async function pidOf(role: "api" | "gateway"): Promise<number> {
    for (let tries = 0; tries < 600; tries++) {
      try {
        return now.appliance.pid(role);
      } catch {
        await Bun.sleep(50);
      }
    }
    throw new Error(`${role} was not started again within 30 s`);
  }

  async function killAll(): Promise<void> {
    for (let n = 1; n <= kills; n++) {
      await mended(now.appliance);
      await Bun.sleep(random.int(1000));
      await kill("api");
      if (n % OTHER_EVERY === 0) {
        await Bun.sleep(random.int(500));
        await kill(random.int(2) === 0 ? "serve" : "gateway");
      }
      if (n % AUDIT_EVERY !== 0 && n !== kills) continue;
      await mended(now.appliance);
      const found = await load.audit();
      console.log(JSON.stringify({ kills: n, ...found }));
      // Those of the load, and those that wait or have just been left.
      expect(readdirSync(`/run/cofferdam/${now.appliance.inst}/host/slots`).length).toBeLessThan(10);
    }
  }

  await Promise.race([killAll(), load.ended]);
  await load.stop();
  const { stdout } = await now.appliance.cofferdam(["doctor", "--json"]);
  const { checks } = JSON.parse(stdout) as { checks: { status: string }[] };
  expect(checks.filter(({ status }) => status === "fail")).toEqual([]);
  const verified = await now.appliance.cofferdam(["event", "verify", "--json"]);
  expect(JSON.parse(verified.stdout)).toMatchObject({ ok: true });
  expect(await now.appliance.stop()).toBe(0);
  expect(hostState(now.appliance.inst)).toEqual([]);
  expect(halves(now.appliance.data)).toEqual([]);
  console.log(JSON.stringify({ killed, ...load.counts }));
  const { refused: _refused, cut: _cut, ...done } = load.counts;
  expect(Object.entries(done).filter(([, count]) => count === 0)).toEqual([]);
}

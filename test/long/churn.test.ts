import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { amount } from "../fixtures/amount.ts";
import { startAppliance } from "../fixtures/appliance.ts";
import { footprints, sandboxes } from "../fixtures/footprint.ts";
import { hostState } from "../fixtures/host-state.ts";
import { seededRandom } from "../fixtures/random.ts";

const SECONDS = amount("CHURN_S", 180);
const CLIENTS = 6;
const WARM = 12;
const POOL = 2;

test(
  `${SECONDS} s of many namespaces in few sandboxes: each eviction costs time, never an answer or a file`,
  async () => {
    const seed = Number(process.env["SEED"] ?? Date.now() % 2 ** 32);
    console.log(`seed ${seed}`);
    const random = seededRandom(seed);
    const appliance = await startAppliance({
      config: `[exec]\npool = ${POOL}\nwarm = ${WARM}\nidle_s = 1\n`,
    });
    const { workspace_id: workspace, admin_key: key } = appliance.keys;
    const counts = { execs: 0, deleted: 0, most: 0 };
    const end = performance.now() + SECONDS * 1000;
    let before: ReturnType<typeof footprints> | undefined;

    // Each client has namespaces of its own, so that it knows what is in them.
    async function client(own: number): Promise<void> {
      const written = new Map<string, number>();
      while (performance.now() < end) {
        const namespace = `churn-${own}-${random.int(5)}`;
        const last = written.get(namespace);
        const version = (last ?? 0) + 1;
        const command = `cat workspace/f 2>/dev/null; echo ${version} >workspace/f; ls /tmp; touch /tmp/mine`;
        const answer = await appliance.call("/v1/exec", { namespace, json: { command } });
        expect([answer.status, await answer.json()]).toEqual([
          200,
          expect.objectContaining({
            exit_code: 0,
            stdout: `${last === undefined ? "" : `${last}\n`}home\n`,
            stderr: "",
          }),
        ]);
        written.set(namespace, version);
        counts.execs += 1;
        if (random.int(12) === 0) {
          const path = `/v1/workspaces/${workspace}/namespaces/${namespace}`;
          expect((await appliance.call(path, { method: "DELETE", key, namespace: null })).status).toBe(200);
          written.delete(namespace);
          counts.deleted += 1;
        }
        // Now and then long enough to be idle.
        if (random.int(20) === 0) await Bun.sleep(random.int(4_000));
      }
    }

    async function watch(): Promise<void> {
      while (performance.now() < end) {
        await Bun.sleep(1_000);
        counts.most = Math.max(counts.most, (await sandboxes(appliance)).length);
        if (before === undefined && performance.now() > end - (SECONDS * 1000) / 2)
          before = footprints(appliance);
      }
    }

    await Promise.all([watch(), ...Array.from({ length: CLIENTS }, (_, own) => client(own))]);
    // The warm ones, the waiting ones, one that boots for each client, and one that ends for each.
    expect(counts.most).toBeLessThanOrEqual(WARM + POOL + 2 * CLIENTS);
    for (let tries = 0; (await sandboxes(appliance)).some(({ namespace }) => namespace !== null); tries++) {
      expect(tries).toBeLessThan(100);
      await Bun.sleep(200);
    }
    const after = footprints(appliance);
    console.log(JSON.stringify({ ...counts, before, after }));
    for (const role of ["serve", "api"] as const) {
      expect([role, after[role].memoryMb - before![role].memoryMb < 48]).toEqual([role, true]);
      expect([role, after[role].descriptors - before![role].descriptors < 8]).toEqual([role, true]);
    }
    expect(readdirSync(`/run/cofferdam/${appliance.inst}/host/slots`).length).toBeLessThanOrEqual(POOL + 1);
    expect(await appliance.stop()).toBe(0);
    expect(hostState(appliance.inst)).toEqual([]);
  },
  (SECONDS + 120) * 1000,
);

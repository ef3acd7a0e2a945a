import { expect, test } from "bun:test";
import { amount } from "../fixtures/amount.ts";
import { startAppliance } from "../fixtures/appliance.ts";
import { footprints, sandboxes } from "../fixtures/footprint.ts";
import { hostState } from "../fixtures/host-state.ts";

const EXECS = amount("EXECS", 20_000);
const NAMESPACES = amount("NAMESPACES", 50);
const CLIENTS = 8;
const POOL = 2;

/** The nth command and what it must answer: mostly small ones, some with stdin, much output, files, python. */
function job(n: number): { json: { command: string; stdin?: string }; stdout: string } {
  if (n % 100 === 1) return { json: { command: `python3 -c 'print(${n})'` }, stdout: `${n}\n` };
  if (n % 50 === 2)
    return { json: { command: `printf %0100000d ${n}` }, stdout: `${n}`.padStart(100_000, "0") };
  if (n % 10 === 3) return { json: { command: "cat", stdin: `in ${n}` }, stdout: `in ${n}` };
  if (n % 10 === 4) {
    const file = `workspace/f${n % 8}`;
    return {
      json: { command: `echo ${n} >${file}; cat ${file}; ls /tmp; touch /tmp/mine; sleep 9 &` },
      stdout: `${n}\nhome\n`,
    };
  }
  return { json: { command: `echo ${n}` }, stdout: `${n}\n` };
}

test(
  `${EXECS} commands over ${NAMESPACES} namespaces: every answer is right, and nothing grows`,
  async () => {
    const appliance = await startAppliance({ config: `[exec]\npool = ${POOL}\n` });
    let n = 0;
    const sample = async () => {
      // What a garbage collector holds for a moment is no growth.
      await Bun.sleep(2_000);
      const all = await sandboxes(appliance);
      const bytes = all.reduce((sum, { memory_bytes }) => sum + (memory_bytes ?? 0), 0);
      return {
        ...footprints(appliance),
        sandboxes: all.length,
        sandboxMb: Math.round(bytes / all.length / 2 ** 20),
      };
    };
    async function client(until: number): Promise<void> {
      while (n < until) {
        const mine = n++;
        // Two clients are often in the same namespace: with 8 jobs at a time over neighbouring numbers.
        const namespace = `soak-${Math.floor(mine / 4) % NAMESPACES}`;
        const { json, stdout } = job(mine);
        const answer = await appliance.call("/v1/exec", { namespace, json });
        const text = await answer.text();
        if (answer.status !== 200) throw new Error(`${mine}: ${answer.status} ${text}`);
        const body = JSON.parse(text) as { stdout: string; exit_code: number };
        if (body.stdout !== stdout)
          throw new Error(`${mine}: ${JSON.stringify(json)} answered ${text.slice(0, 300)}`);
      }
    }
    const samples = [];
    for (let quarter = 1; quarter <= 4; quarter++) {
      const started = performance.now();
      const until = Math.floor((EXECS * quarter) / 4);
      const first = n;
      await Promise.all(Array.from({ length: CLIENTS }, () => client(until)));
      const rate = Math.round((n - first) / ((performance.now() - started) / 1000));
      samples.push(await sample());
      console.log(JSON.stringify({ execs: n, per_s: rate, ...samples.at(-1) }));
    }
    // The first half is the time to reach its size.
    const [, half, , end] = samples as [unknown, Sample, unknown, Sample];
    expect(end.sandboxes).toBeLessThanOrEqual(NAMESPACES + POOL);
    expect(end.sandboxMb - half.sandboxMb).toBeLessThan(16);
    for (const [role, mostMb] of [
      ["serve", 32],
      ["api", 64],
      ["gateway", 16],
    ] as const) {
      expect([role, end[role].memoryMb - half[role].memoryMb < mostMb]).toEqual([role, true]);
      expect([role, end[role].descriptors - half[role].descriptors < 16]).toEqual([role, true]);
    }
    const { workspace_id: workspace, admin_key: key } = appliance.keys;
    for (let i = 0; i < NAMESPACES; i++) {
      const path = `/v1/workspaces/${workspace}/namespaces/soak-${i}`;
      expect((await appliance.call(path, { method: "DELETE", key, namespace: null })).status).toBe(200);
    }
    expect((await sandboxes(appliance)).filter(({ namespace }) => namespace !== null)).toEqual([]);
    expect(await appliance.stop()).toBe(0);
    expect(hostState(appliance.inst)).toEqual([]);
  },
  (120 + EXECS / 10) * 1000,
);

type Sample = ReturnType<typeof footprints> & { sandboxes: number; sandboxMb: number };

import { beforeAll, expect, test } from "bun:test";
import { chmodSync, existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { SandboxId } from "../../../src/ids.ts";
import { openCgroups } from "../../../src/sandboxd/cgroup.ts";
import { sandboxNames } from "../../../src/sandboxd/names.ts";
import { prepareLibrary, stage } from "./stage.ts";

let lib = "";
beforeAll(() => {
  lib = prepareLibrary();
}, 300_000);

type Stage = Awaited<ReturnType<typeof stage>>;

/** A sandbox that counts in a file, as fast as it can, and what the file says. */
async function counting(at: Stage) {
  const namespace = at.namespace();
  // The shell there is root without the right to write where it is not the owner.
  chmodSync(at.live(namespace), 0o777);
  const { sandbox } = await at.client.call("ensureSandbox", { namespace });
  const file = "/home/agent/workspace/count";
  await at.api.shell(sandbox, `sh -c 'n=0; while :; do n=$((n+1)); echo $n > ${file}; done' &`);
  // Empty, or not there yet: 0.
  const path = join(at.live(namespace), "count");
  const count = () => (existsSync(path) ? Number(readFileSync(path, "utf8")) : 0);
  const moves = async () => {
    for (const before = count(); ;) {
      await Bun.sleep(10);
      if (count() > before) return;
    }
  };
  await moves();
  return { namespace, sandbox, count, moves };
}

/** CPU time that all threads of a sandbox have used, in ticks: those that run its programs, too. */
function cpuTicks(at: Stage, sandbox: SandboxId): number {
  const pids = openCgroups().processes(sandboxNames(at.instance, sandbox).cgroup);
  expect(pids.length).toBeGreaterThan(3);
  return pids.reduce((sum, pid) => {
    const threads = readdirSync(`/proc/${pid}/task`);
    const ticks = threads.map((thread) => {
      const fields =
        readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
      return Number(fields[11]) + Number(fields[12]);
    });
    return sum + ticks.reduce((a, b) => a + b, 0);
  }, 0);
}

test("a frozen sandbox stands still, all of it, and goes on when it is told to", async () => {
  const at = await stage(lib);
  const { namespace, sandbox, count, moves } = await counting(at);
  expect(await at.client.call("freezeSandbox", { namespace })).toEqual({ frozen: true });
  const [counted, ticks] = [count(), cpuTicks(at, sandbox)];
  await Bun.sleep(200);
  expect([count(), cpuTicks(at, sandbox)]).toEqual([counted, ticks]);
  expect(await at.client.call("thawSandbox", { namespace })).toEqual({ stood: true });
  await moves();
  expect(cpuTicks(at, sandbox)).toBeGreaterThan(ticks);
  expect(await at.client.call("thawSandbox", { namespace })).toEqual({ stood: false });
  expect(await at.client.call("freezeSandbox", { namespace: at.namespace() })).toEqual({ frozen: false });

  // A sandbox that stands still can be ended.
  await at.client.call("freezeSandbox", { namespace });
  await at.client.call("stopSandbox", { sandbox });
  expect(await at.client.call("inspectSandbox", { sandbox })).toMatchObject({ state: "gone" });
  expect(await at.end()).toEqual([]);
}, 60_000);

test("a sandbox that was frozen when sandboxd ended goes on with the next one", async () => {
  const at = await stage(lib);
  const { namespace, moves, count } = await counting(at);
  await at.client.call("freezeSandbox", { namespace });
  await at.sandboxd.stop("keep");
  const counted = count();
  await Bun.sleep(50);
  expect(count()).toBe(counted);
  await at.start();
  await moves();
  expect(await at.end()).toEqual([]);
}, 60_000);

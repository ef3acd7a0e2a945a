import { beforeAll, expect, test } from "bun:test";
import { chmodSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
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

test("a frozen sandbox stands still, and goes on when it is told to", async () => {
  const at = await stage(lib);
  const { namespace, sandbox, count, moves } = await counting(at);
  expect(await at.client.call("freezeSandbox", { namespace })).toEqual({ frozen: true });
  const counted = count();
  await Bun.sleep(200);
  expect(count()).toBe(counted);
  expect(await at.client.call("thawSandbox", { namespace })).toEqual({ stood: true });
  await moves();
  expect(await at.client.call("thawSandbox", { namespace })).toEqual({ stood: false });
  expect(await at.client.call("freezeSandbox", { namespace: at.namespace() })).toEqual({ frozen: false });

  // Many times over, the command goes on where it was.
  for (let round = 0; round < 20; round++) {
    await at.client.call("freezeSandbox", { namespace });
    await at.client.call("thawSandbox", { namespace });
  }
  await moves();

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

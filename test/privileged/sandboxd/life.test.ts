import { beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { prepareLibrary, stage } from "./stage.ts";

let lib = "";
beforeAll(() => {
  lib = prepareLibrary();
}, 300_000);

test("a namespace gets a sandbox in which its files and nothing else are", async () => {
  const at = await stage(lib);
  const namespace = at.namespace();
  writeFileSync(join(at.live(namespace), "note"), "from the host");
  const { sandbox, nonce, from_pool } = await at.client.call("ensureSandbox", { namespace });
  expect(from_pool).toBe(false);
  expect(at.api.nonce(sandbox)).toBe(nonce);
  expect(await at.api.shell(sandbox, "cat /home/agent/workspace/note; ls /home/agent")).toBe(
    "from the hostworkspace\n",
  );
  expect(await at.client.call("ensureSandbox", { namespace })).toEqual({ sandbox, nonce, from_pool: false });
  expect(at.left()).not.toEqual([]);
  expect(await at.end()).toEqual([]);
}, 60_000);

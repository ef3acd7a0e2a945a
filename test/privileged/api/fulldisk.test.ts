import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startApi } from "../../fixtures/api.ts";

/* The database on a file system that is full: a tmpfs of its own, in a throw-away copy of the machine. */
const data = mkdtempSync("/scratch/full-");
Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", data]);
const api = await startApi({ data });
afterAll(async () => {
  await api.stop();
  Bun.spawnSync(["umount", data]);
});

const setup = async () =>
  (await (await api.admin("/admin/setup", { method: "POST" })).json()) as Record<string, string>;
const mint = (keys: Record<string, string>, name: string) =>
  api.call(`/v1/workspaces/${keys["workspace_id"]}/keys`, {
    key: keys["admin_key"] ?? "",
    json: { name, namespace: null, admin: false },
  });

test("what has to be stored is refused with 507, and goes on once there is room", async () => {
  const keys = await setup();
  expect((await mint(keys, "before")).status).toBe(200);
  const { bavail, bsize } = statfsSync(data);
  writeFileSync(join(data, "ballast"), new Uint8Array(bavail * bsize));
  // The database's log may have room for a few more.
  const answers = [];
  for (let tries = 0; tries < 400 && answers.at(-1)?.status !== 507; tries++)
    answers.push(await mint(keys, `key ${tries}`));
  expect(await answers.at(-1)?.json()).toEqual({ detail: "The disk is full; free space and try again." });
  expect(answers.slice(0, -1).filter(({ status }) => status !== 200)).toEqual([]);
  expect((await api.call("/v1/me", { key: keys["admin_key"] ?? "" })).status).toBe(200);
  rmSync(join(data, "ballast"));
  expect((await mint(keys, "after")).status).toBe(200);
});

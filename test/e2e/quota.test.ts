import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { detail, startOnSmallDisk } from "../fixtures/small-appliance.ts";
import { until } from "../fixtures/until.ts";

const MIB = 1024 * 1024;
const small = await startOnSmallDisk(200, 3000);
const { appliance, disk, exec, put, setQuota, usedBy, lastExec } = small;
/** What commands have changed is counted a little later. */
const hasFiles = (name: string, files: number) =>
  until(async () => {
    const used = await usedBy(name);
    return used?.file_count === files && used;
  });
afterAll(async () => small.stop());

describe("a namespace's quota", () => {
  beforeAll(async () => setQuota({ namespace_mb: 8, namespace_files: 300 }));

  test("stops a command that passes it, however short, and lets what is over delete", async () => {
    // Over before anybody looks.
    expect(await exec("short", "head -c 20M /dev/zero > workspace/big")).toEqual([
      507,
      detail("[quota] namespace_mb"),
    ]);
    expect(await lastExec("short")).toMatchObject({ ended: "over_quota" });
    // One that would go on for long, and all that runs beside it.
    const endless = "i=0; while :; do head -c 1M /dev/zero > workspace/f$i; i=$((i + 1)); done";
    const both = await Promise.all([exec("long", endless), exec("long", "sleep 20")]);
    for (const one of both) expect(one).toEqual([507, detail("The command was stopped")]);
    expect(await lastExec("long")).toMatchObject({ ended: "over_quota", timed_out: false });
    // To write much is not to grow.
    const again = "for i in {1..40}; do head -c 1M /dev/zero > workspace/again; done";
    expect(await exec("again", again)).toMatchObject([200, { exit_code: 0 }]);
    // What is over may still be read and deleted, by both.
    expect(await put("short", "more", "x")).toEqual([507, detail("[quota] namespace_mb")]);
    expect(await exec("short", "ls workspace; sleep 0.2; rm workspace/big")).toMatchObject([200, {}]);
    expect(await put("short", "more", "x")).toMatchObject([200, {}]);
    expect(await hasFiles("short", 1)).toMatchObject({ size_bytes: 1 });
    expect((await appliance.call("/delete", { namespace: "long", json: { path: "f0" } })).status).toBe(200);
  }, 60_000);

  test("of files stops a command that makes many", async () => {
    const many = "mkdir workspace/d; for i in {1..4000}; do : > workspace/d/$i; done";
    expect(await exec("files", many)).toEqual([507, detail("300 files and directories")]);
    // It has more than anybody counted, and may have less.
    expect(await exec("files", "rm workspace/d/{1,2,3}; sleep 0.2; rm -r workspace/d")).toMatchObject([
      200,
      { exit_code: 0 },
    ]);
    expect(await hasFiles("files", 0)).toMatchObject({ directory_count: 0 });
  }, 60_000);

  test("is told to the operator, beside what there is", async () => {
    await hasFiles("again", 1);
    const { stdout } = await appliance.cofferdam(["namespace", "usage"]);
    expect(stdout.split("\n").find((line) => line.startsWith("again"))).toMatch(
      /1\.0 MiB of 8\.0 MiB +1 of 300/,
    );
    expect((await appliance.cofferdam(["workspace", "usage"])).stdout).toMatch(/^namespaces +4 +any$/m);
  });
});

test("below the floor all that writes is stopped, the rest goes on, and it resumes by itself", async () => {
  await setQuota({});
  expect(await put("kept", "file", "kept")).toMatchObject([200, {}]);
  expect(await exec("idle", "echo warm")).toMatchObject([200, {}]);
  const neighbour = exec("idle", "for i in {1..20}; do sleep 0.1; done; echo well");
  const fill =
    "for p in 1 2 3 4; do (while :; do head -c 20M /dev/zero > workspace/$p-$RANDOM; done) & done; wait";
  expect(await exec("filler", fill)).toEqual([507, detail("disk is nearly full")]);
  expect(await lastExec("filler")).toMatchObject({ ended: "disk_full" });

  expect(await put("kept", "more", "x")).toEqual([507, detail("disk is nearly full")]);
  expect(await exec("kept", "ls")).toEqual([507, detail("disk is nearly full")]);
  expect(await (await appliance.call("/files/file", { namespace: "kept" })).text()).toBe("kept");
  expect((await appliance.call("/delete", { namespace: "kept", json: { path: "file" } })).status).toBe(200);
  expect((await appliance.call("/readyz", { namespace: null })).status).toBe(503);
  expect((await appliance.cofferdam(["event", "verify"])).stdout).toContain("No event was changed");
  expect(await neighbour).toMatchObject([200, { stdout: "well\n", exit_code: 0 }]);

  await small.removeNamespace("filler");
  expect(await put("kept", "more", "x")).toMatchObject([200, {}]);
  expect(await exec("kept", "cat workspace/more")).toMatchObject([200, { stdout: "x" }]);
}, 90_000);

test("restores that fit one by one don't pass the floor together", async () => {
  const names = ["one", "two"];
  const ids: string[] = [];
  for (const namespace of names) {
    expect(await exec(namespace, "head -c 80M /dev/zero > workspace/large")).toMatchObject([200, {}]);
    const made = await appliance.call("/v1/snapshots", { namespace, json: {} });
    ids.push(((await made.json()) as { snapshot_id: string }).snapshot_id);
    expect(await exec(namespace, "rm workspace/large")).toMatchObject([200, {}]);
  }
  const restore = async (at: number) => {
    const path = `/v1/snapshots/${ids[at] ?? ""}/restore`;
    return (await appliance.call(path, { namespace: names[at] ?? "", method: "POST" })).status;
  };
  let least = disk.freeBytes();
  const looking = setInterval(() => (least = Math.min(least, disk.freeBytes())), 5);
  const both = await Promise.all([restore(0), restore(1)]);
  clearInterval(looking);
  expect(both).toContain(507);
  expect(least).toBeGreaterThan(40 * MIB);
  if (!both.includes(200)) expect(await restore(0)).toBe(200);
  for (const name of names) await small.removeNamespace(name);
}, 90_000);

test("control: without a floor a disk is filled to its end, which is a 507 too, and goes on when there is room", async () => {
  await setQuota({ disk_floor_mb: 0 });
  const ballast = join(disk.path, "ballast");
  writeFileSync(ballast, new Uint8Array(16 * MIB));
  const fill = "while head -c 20M /dev/zero > workspace/b$RANDOM$RANDOM; do :; done";
  // It ends by itself; the database may have no room for its event.
  expect([200, 507]).toContain((await exec("filler", fill))[0]);
  expect(disk.freeBytes()).toBeLessThan(MIB);
  expect(await put("kept", "large", new Uint8Array(4 * MIB))).toEqual([507, detail("disk is full")]);
  rmSync(ballast);
  expect(await put("kept", "large", new Uint8Array(4 * MIB))).toMatchObject([200, {}]);
  expect(await exec("filler", "rm workspace/*")).toMatchObject([200, { exit_code: 0 }]);

  const inodes = "i=0; while : > workspace/f$i; do i=$((i + 1)); done";
  expect(await exec("filler", inodes)).toMatchObject([200, {}]);
  expect(disk.freeFiles()).toBe(0);
  expect(await put("kept", "new", "x")).toEqual([507, detail("disk is full")]);
  expect(await exec("filler", "rm -r workspace/*")).toMatchObject([200, {}]);
  expect(await put("kept", "new", "x")).toMatchObject([200, {}]);
  expect((await appliance.cofferdam(["event", "verify"])).stdout).toContain("No event was changed");
}, 90_000);

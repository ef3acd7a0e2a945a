import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { failureOf } from "../fixtures/failure.ts";
import { startS3Server, type S3Server } from "../fixtures/s3-server.ts";
import { until } from "../fixtures/until.ts";

/* Namespaces in a bucket, by the built program: what hosts come and go, they have what was acknowledged. */
setDefaultTimeout(120_000);

const FILES = 1_000;

let server: S3Server;
let config: string;
let one: Appliance;
const started: Appliance[] = [];
beforeAll(async () => {
  server = await startS3Server();
  config = `${server.config()}[exec]\npool = 1\n[rate]\nper_key = "0"\n`;
  one = await start();
});
afterAll(async () => {
  for (const appliance of started) await appliance.stop();
  await server[Symbol.asyncDispose]();
});

async function start(data?: string): Promise<Appliance> {
  const appliance = await startAppliance({ config, ...(data !== undefined && { data }) });
  started.push(appliance);
  return appliance;
}

async function stop(appliance: Appliance, signal?: NodeJS.Signals): Promise<void> {
  started.splice(started.indexOf(appliance), 1);
  await appliance.stop(signal);
}

/** As on another host, with the database and the keys restored from a backup, and no files. */
function restored(from: Appliance, inst: string): string {
  const data = `${from.data}-${inst}`;
  cpSync(from.data, data, { recursive: true, preserveTimestamps: true });
  rmSync(join(data, "api/volumes"), { recursive: true });
  rmSync(join(data, "api/host-id"));
  // Made anew by the start, with its owner.
  rmSync(join(data, "gateway"), { recursive: true });
  cpSync(from.keysFile, `${data}.keys.json`);
  writeFileSync(join(data, "inst"), `${inst}\n`);
  Bun.spawnSync(["chown", "-R", "--reference", join(from.data, "api"), join(data, "api")]);
  return data;
}

async function exec(appliance: Appliance, command: string): Promise<string> {
  const answer = await appliance.call("/v1/exec", { json: { command: `cd workspace && { ${command}; }` } });
  const body = (await answer.json()) as { exit_code?: number; stdout?: string; detail?: string };
  if (body.exit_code !== 0) throw new Error(`${answer.status} ${JSON.stringify(body)}`);
  return body.stdout ?? "";
}

const SUM = "find . -type f -printf '%P %m %s\\n' -exec sha256sum {} + | sort | sha256sum";

test("a fresh host with the bucket and the database has everything", async () => {
  await exec(one, `mkdir -p src/deep && seq ${FILES} | split -a 3 -l 1 - src/deep/f`);
  await exec(one, "printf '#!/bin/sh\\necho ran\\n' > run && chmod 750 run && ln -s run link && mkdir empty");
  await one.call("/write", { json: { path: "late.txt", content: "after the commands" } });
  const sum = await exec(one, SUM);
  await stop(one);

  const other = await start(restored(one, "b0b0"));
  const since = performance.now();
  expect(await exec(other, "./link")).toBe("ran\n");
  console.log(`first exec in a namespace of ${FILES} files: ${Math.round(performance.now() - since)} ms`);
  expect(await exec(other, SUM)).toBe(sum);
  expect(await (await other.call("/files/late.txt")).text()).toBe("after the commands");
  await other.call("/write", { json: { path: "late.txt", content: "by the other host" } });
  await stop(other);

  // And back: what is on the first host's disk is of before.
  one = await start(one.data);
  expect(await (await one.call("/files/late.txt")).text()).toBe("by the other host");
});

test("with kill -9 and an empty disk nothing that was acknowledged is lost", async () => {
  const acknowledged: string[] = [];
  const over = { now: false };
  const writing = Array.from({ length: 4 }, async (_, writer) => {
    for (let n = 0; !over.now; n++) {
      const path = `k/${writer}-${n}`;
      const answer = await one.call("/write", { json: { path, content: path } }).catch(() => null);
      if (answer?.ok === true) acknowledged.push(path);
    }
  });
  await until(async () => acknowledged.length > 50);
  await stop(one, "SIGKILL");
  over.now = true;
  await Promise.all(writing);
  rmSync(join(one.data, "api/volumes"), { recursive: true });
  one = await start(one.data);
  const there = new Set((await exec(one, "find k -type f")).trim().split("\n"));
  expect(acknowledged.filter((path) => !there.has(path))).toEqual([]);
});

test("a restore is in the bucket, and collection leaves what it needs", async () => {
  await exec(one, "mkdir r && echo one > r/s && ln -s s r/t");
  const made = (await (await one.call("/v1/snapshots", { json: {} })).json()) as { snapshot_id: string };
  await exec(one, "echo two > r/s; rm r/t; echo more > r/u");
  expect((await one.call(`/v1/snapshots/${made.snapshot_id}/restore`, { method: "POST" })).status).toBe(200);
  expect((await one.cofferdam(["gc"])).stdout).toMatch(/^Deleted: [1-9]/);
  await stop(one, "SIGKILL");
  rmSync(join(one.data, "api/volumes"), { recursive: true });
  one = await start(one.data);
  expect(await exec(one, "ls r && cat r/s r/t")).toBe("s\nt\none\none\n");
});

test("of two hosts the one that lost a namespace answers 503 and has none of its files", async () => {
  const other = await start(restored(one, "c0c0"));
  await one.call("/write", { json: { path: "who", content: "one" } });
  expect(await (await other.call("/files/who")).text()).toBe("one");
  await other.call("/write", { json: { path: "who", content: "the other" } });
  for (const call of [
    () => one.call("/files/who"),
    () => one.call("/v1/files"),
    () => one.call("/write", { json: { path: "who", content: "one again" } }),
    () => one.call("/v1/exec", { json: { command: "cat workspace/who" } }),
  ]) {
    const answer = await call();
    expect(answer.status).toBe(503);
    expect(answer.headers.get("retry-after")).not.toBeNull();
    expect(await answer.text()).toContain("Another host serves this namespace");
  }
  const volumes = join(one.data, "api/volumes");
  await until(async () =>
    readdirSync(volumes).every((name) => {
      const live = join(volumes, name, "live");
      return !existsSync(live) || readdirSync(live).length === 0;
    }),
  );
  expect(await exec(other, "cat who")).toBe("the other");
  await stop(other);
});

test("a short outage is waited out, and commands beside each other are all kept", async () => {
  await stop(one);
  one = await start(one.data);
  await one.call("/write", { json: { path: "before", content: "there" } });
  await server.stop();
  const calls = [
    one.call("/files/before"),
    one.call("/write", { json: { path: "during", content: "!" } }),
    exec(one, "sleep 0.5; echo first > p1"),
    exec(one, "echo second > p2"),
  ] as const;
  await Bun.sleep(500);
  await server.start();
  const [read, written] = await Promise.all(calls);
  expect([read.status, written.status]).toEqual([200, 200]);
  await stop(one, "SIGKILL");
  rmSync(join(one.data, "api/volumes"), { recursive: true });
  one = await start(one.data);
  expect(await exec(one, "cat before during p1 p2")).toBe("there!first\nsecond\n");
});

test("an appliance that had all on its disk takes its snapshots along, and is not let back by the setting alone", async () => {
  const local = '[exec]\npool = 1\n[rate]\nper_key = "0"\n';
  const before = await startAppliance({ config: local });
  started.push(before);
  await exec(before, "seq 100000 > numbers; ln -s numbers link");
  const sum = await exec(before, SUM);
  const made = (await (await before.call("/v1/snapshots", { json: {} })).json()) as { snapshot_id: string };
  await stop(before);
  const { data } = before;
  const inBucket = `${server.config({ prefix: "moved" })}${local}`;
  writeFileSync(join(data, "config.toml"), inBucket);

  const after = await startAppliance({ data });
  started.push(after);
  expect(readdirSync(join(data, "api/blobs"))).toEqual([]);
  expect((await after.cofferdam(["snapshot", "verify"])).stdout).toContain("Damaged: 0.");
  expect(await exec(after, `${SUM}; rm *`)).toBe(sum);
  expect((await after.call(`/v1/snapshots/${made.snapshot_id}/restore`, { method: "POST" })).status).toBe(
    200,
  );
  expect(await exec(after, SUM)).toBe(sum);
  await stop(after);

  writeFileSync(join(data, "config.toml"), local);
  expect(await failureOf(startAppliance({ data }))).toContain(
    "are in a bucket, which [storage] does not name",
  );
});

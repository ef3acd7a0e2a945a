import { mkdtempSync } from "node:fs";
import { freemem } from "node:os";
import { resolve } from "node:path";
import { startAppliance, type Appliance } from "../test/fixtures/appliance.ts";
import { egress } from "./egress.ts";
import { events, fillLog } from "./events.ts";
import { backToBack, crowd, firstExec, warmExec } from "./exec.ts";
import { auditCost, execCost } from "./audit.ts";
import { files } from "./files.ts";
import { models } from "./llm.ts";
import { memory } from "./memory.ts";
import { runs } from "./runs.ts";
import { startPeers } from "./peers.ts";
import { snapshots } from "./snapshots.ts";
import { s3mode } from "./s3mode.ts";
import { stores } from "./stores.ts";
import { summary, type Summary } from "./stats.ts";
import { webhooks } from "./webhooks.ts";
import { worktrees } from "./worktrees.ts";

// bench/run calls this inside a throw-away copy of the machine: `bun bench/run.ts [--quick] OUT.json`.
const quick = process.argv.includes("--quick");
const out = process.argv.at(-1) ?? "";
const few = quick ? 10 : 40;
const many = quick ? 30 : 200;
const POOL = 2;
/** So many idle ones, and 256 where there is memory for them. */
const RUNS = [1, 16, 64, 128, ...(freemem() > 8 * 2 ** 30 ? [256] : [])];

const note = (text: string) => console.error(`bench: ${text}`);

async function coldStart(rounds: number): Promise<Summary> {
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const first = await startAppliance({ config: "[exec]\npool = 0\n" });
    await first.stop();
    const start = performance.now();
    const again: Appliance = await startAppliance({ data: first.data, config: "[exec]\npool = 0\n" });
    times.push(performance.now() - start);
    await again.stop();
  }
  return summary({ name: "serve, from start to the first answered request", times });
}

const stage = resolve(process.env.COFFERDAM_STAGE ?? "dist/stage");
const work = mkdtempSync("/scratch/bench-");
const rows: Summary[] = [];

note("cold start");
rows.push(await coldStart(quick ? 3 : 10));
const appliance = await startAppliance({ config: `[exec]\npool = ${POOL}\n[rate]\nper_key = "0"\n` });
const peers = await startPeers(stage, work);
await Bun.sleep(3000);
const idle = memory(appliance);
note("first exec in a namespace");
rows.push(...(await firstExec(appliance, peers, few, POOL)));
note("warm exec");
rows.push(...(await warmExec(appliance, peers, quick ? 20 : 100)));
note("back to back");
rows.push(...(await backToBack(appliance, many)));
note("files");
rows.push(...(await files(appliance, work, many)));
note("stores");
rows.push(...(await stores(work, quick ? 10 : 40)));
note("S3 mode");
rows.push(...(await s3mode(work, few, quick ? [100] : [100, 10_000, 100_000])));
note("snapshots");
const snapshotted = await snapshots(work, quick ? 5 : 20);
rows.push(...snapshotted.rows);
note("worktrees");
rows.push(...(await worktrees(work, quick ? 3 : 10)));
note("audit");
rows.push(...(await auditCost(work, many)));
note("models");
rows.push(...(await models(work, quick ? 100 : 400)));
note("the web proxy");
rows.push(...(await egress(work, quick ? 100 : 200)));
note("runs");
const supervised = await runs(stage, quick ? 10 : 40, quick ? [1, 16] : RUNS);
rows.push(...supervised.rows);
note("crowd");
rows.push(...(await crowd(appliance, [1, 10, 50], quick ? 20 : 100)));
await Bun.sleep(1000);
const crowded = memory(appliance);
await peers.close();
await appliance.stop();
note("audit of commands");
rows.push(...(await execCost(work, quick ? 20 : 100)));
note("events");
await fillLog(appliance);
const logged = await startAppliance({ data: appliance.data, config: '[rate]\nper_key = "0"\n' });
rows.push(...(await events(logged, quick ? 10 : 40)));
await logged.stop();
note("webhooks");
const hooks = await webhooks({ seconds: quick ? 5 : 30, perS: 200 });

const p50 = (name: string) => rows.find((row) => row.name === name)?.p50_ms ?? Number.NaN;
const ratio = (a: string, b: string) => Math.round((p50(a) / p50(b)) * 100) / 100;
const ratios = {
  "warm echo hi / runsc exec": ratio("echo hi: HTTP exec, warm", "echo hi: runsc exec"),
  "warm echo hi / bwrap": ratio("echo hi: HTTP exec, warm", "echo hi: bwrap --unshare-all"),
  "first in a namespace / cold runsc run": ratio(
    "echo hi: first in a namespace, pool filled",
    "echo hi: cold runsc run",
  ),
  "durable 1 KiB write / plain calls": ratio(
    "write 1 KiB, durable: HTTP",
    "write 1 KiB, durable: plain calls",
  ),
  "1 KiB write with its event / without": ratio("write 1 KiB: with its event", "write 1 KiB: without"),
  "echo hi with its event / without": ratio("echo hi: warm, with its event", "echo hi: warm, without"),
  "16 writes at a time with events / without": ratio(
    "write 1 KiB, 16 at a time: with its event",
    "write 1 KiB, 16 at a time: without",
  ),
  "put 4 MiB into a bucket / Bun's client": ratio("put 4 MiB: bucket", "put 4 MiB: bucket, Bun's client"),
  "get 4 MiB from a bucket / Bun's client": ratio("get 4 MiB: bucket", "get 4 MiB: bucket, Bun's client"),
  "put 4 MiB into a bucket / local disk": ratio("put 4 MiB: bucket", "put 4 MiB: local disk"),
  "write on a libSQL server / in a file": ratio(
    "write 1 KiB: with its event, on a server",
    "write 1 KiB: with its event",
  ),
  "16 writes at a time on a libSQL server / in a file": ratio(
    "write 1 KiB, 16 at a time: on a server",
    "write 1 KiB, 16 at a time: with its event",
  ),
  "snapshot / tar, zstd and openssl": ratio(
    "snapshot of 10,000 files",
    "tar | zstd -1 | openssl enc -aes-256-ctr",
  ),
  "snapshot with 1 % changed / of all": ratio("snapshot, 1 % changed", "snapshot of 10,000 files"),
  "restore / tar -x": ratio("restore of 10,000 files", "tar -x"),
  "download / tar -c": ratio("download as tar, without gzip", "tar -c | cat"),
  "fork / cp -a": ratio("fork of 10,000 files, 200 MiB", "cp -a of them"),
  "diff / diff -r": ratio("diff of 100 changed files among 10,000", "diff -r of them"),
  "share of copied files that is not stored again": snapshotted.dedupe,
  "run with a spare / ip, iptables and runsc run": ratio(
    "run: to its first output, spare",
    "run: to its first output, by ip, iptables and runsc run",
  ),
  "run booted for it / ip, iptables and runsc run": ratio(
    "run: to its first output, booted",
    "run: to its first output, by ip, iptables and runsc run",
  ),
  "an answer of the web's by the gateway / by tinyproxy": ratio(
    "an answer of the web's, connection and TLS: through the gateway",
    "an answer of the web's, connection and TLS: through tinyproxy",
  ),
  "128 MiB of the web's by the gateway / by tinyproxy": ratio(
    "128 MiB of the web's: through the gateway",
    "128 MiB of the web's: through tinyproxy",
  ),
  "upload / plain calls": ratio("upload 100 MiB: HTTP", "upload 100 MiB: plain calls"),
  "download / plain calls": ratio("download 100 MiB: HTTP", "download 100 MiB: plain calls"),
};

function print(name: string, figures: object): void {
  const text = Object.entries(figures).map(([what, value]) => `${what} ${value}`);
  console.log(`${name.padEnd(50)} ${text.join(", ")}`);
}

const cell = (value: number) => value.toFixed(2).padStart(9);
console.log(`${"".padEnd(52)}   n       min       p50       p99       max  (ms)`);
for (const row of rows)
  console.log(
    `${row.name.padEnd(50)} ${String(row.n).padStart(5)} ${cell(row.min_ms)} ${cell(row.p50_ms)} ${cell(row.p99_ms)} ${cell(row.max_ms)}`,
  );
for (const [name, value] of Object.entries(ratios)) console.log(`${name.padEnd(50)} ${value.toFixed(2)}`);
for (const [title, figures] of Object.entries({ idle, "with 50 warm sandboxes": crowded }))
  for (const [name, value] of Object.entries(figures))
    console.log(`${`${title}: ${name}`.padEnd(70)} ${value.toFixed(1)}`);
for (const { runs, ...figures } of supervised.idle) print(`${runs} idle runs`, figures);
print("as many runs as may live, and one more than may wait", supervised.full);
for (const { name, ...figures } of hooks) print(name, figures);
const results = {
  rows,
  ratios,
  memory: { idle, crowded },
  runs: { idle: supervised.idle, full: supervised.full },
  webhooks: hooks,
};
await Bun.write(out, `${JSON.stringify(results, null, 2)}\n`);

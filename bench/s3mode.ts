import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startAppliance, type Appliance } from "../test/fixtures/appliance.ts";
import { startHost } from "../test/fixtures/remote.ts";
import { startS3Server, type S3Server } from "../test/fixtures/s3-server.ts";
import { storeAt } from "../test/fixtures/s3-store.ts";
import { interleaved, summary, together, type Summary } from "./stats.ts";

const UNLIMITED = '[exec]\npool = 1\n[rate]\nper_key = "0"\n';
const FILES = 1_000;

/** Namespaces in a bucket, on a server beside, and on the disk alone, in turn. */
export async function s3mode(work: string, rounds: number, sizes: readonly number[]): Promise<Summary[]> {
  await using server = await startS3Server();
  const bucket = await startAppliance({ config: `${server.config({ prefix: "calls" })}${UNLIMITED}` });
  const local = await startAppliance({ config: UNLIMITED });
  const rows = await calls({ bucket, local }, rounds);
  await local.stop();
  rows.push(await firstExec(bucket, server, Math.min(rounds, 5)));
  for (const size of sizes) rows.push(...(await walk(work, server, size, rounds)));
  return rows;
}

async function calls(
  { bucket, local }: Record<"bucket" | "local", Appliance>,
  rounds: number,
): Promise<Summary[]> {
  let next = 0;
  const content = "x".repeat(1024);
  const write = (to: Appliance) => async () => {
    const answer = await to.call("/write", { json: { path: `f${next++ % 50}`, content } });
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  };
  const read = (from: Appliance) => async () => void (await (await from.call("/files/f0")).text());
  for (let warm = 0; warm < 50; warm++) await Promise.all([write(bucket)(), write(local)()]);
  const rows = await interleaved(
    {
      "write 1 KiB: local mode": write(local),
      "write 1 KiB: S3 mode": write(bucket),
      "read 1 KiB: local mode": read(local),
      "read 1 KiB: S3 mode": read(bucket),
      "echo hi, in 50 files: local mode": async () => exec(local, "echo hi"),
      "echo hi, in 50 files: S3 mode": async () => exec(bucket, "echo hi"),
      "one file by a command: local mode": async () => exec(local, "date > workspace/now"),
      "one file by a command: S3 mode": async () => exec(bucket, "date > workspace/now"),
    },
    { rounds },
  );
  for (const [name, of] of Object.entries({ local, S3: bucket }))
    rows.push(await together(`write 1 KiB, 16 at a time: ${name} mode`, 16, rounds * 4, write(of)));
  return rows;
}

/** Of a namespace whose files are all in the bucket alone. */
async function firstExec(appliance: Appliance, server: S3Server, rounds: number): Promise<Summary> {
  await exec(appliance, `cd workspace && mkdir -p d && seq ${FILES} | split -a 3 -l 1 - d/f`);
  await appliance.stop();
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) {
    rmSync(join(appliance.data, "api/volumes"), { recursive: true });
    const config = `${server.config({ prefix: "calls" })}${UNLIMITED}`;
    const again = await startAppliance({ data: appliance.data, config });
    await Bun.sleep(1_500);
    const start = performance.now();
    await exec(again, `test $(ls workspace/d | wc -l) = ${FILES}`);
    times.push(performance.now() - start);
    await again.stop();
  }
  return summary({ name: `first exec in a namespace of ${FILES} files, after rm -rf`, times });
}

async function exec(appliance: Appliance, command: string): Promise<void> {
  const answer = await appliance.call("/v1/exec", { json: { command } });
  const body = (await answer.json()) as { exit_code?: number; detail?: string };
  if (body.exit_code !== 0) throw new Error(`${command}: ${answer.status} ${JSON.stringify(body)}`);
}

/** What the end of a command costs besides, by what there is to look at. */
async function walk(work: string, server: S3Server, size: number, rounds: number): Promise<Summary[]> {
  const { store } = storeAt(server.endpoint, { prefix: `walk-${size}/` });
  using host = startHost(join(work, `walk-${size}`), store);
  await host.exec((live) => {
    for (let n = 0; n < size; n++) {
      const dir = join(live, `d${Math.floor(n / 100)}`);
      if (n % 100 === 0) mkdirSync(dir);
      writeFileSync(join(dir, `f${n}`), `content ${n}`);
    }
  });
  // Until no clock's tick is in doubt.
  await Bun.sleep(2_500);
  await host.exec(() => {});
  let next = 0;
  return await interleaved(
    {
      [`end of a command, ${size} files: nothing changed`]: async () => host.exec(() => {}),
      [`end of a command, ${size} files: one changed`]: async () =>
        host.exec((live) => writeFileSync(join(live, `d0/f${next++ % 100}`), `changed ${next}`)),
    },
    { rounds: size > 50_000 ? Math.min(rounds, 8) : Math.min(rounds, 40) },
  );
}

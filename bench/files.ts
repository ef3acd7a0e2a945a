import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { Appliance } from "../test/fixtures/appliance.ts";
import { interleaved, type Summary } from "./stats.ts";

const SMALL = "x".repeat(1024);
const LARGE = new Uint8Array(100 * 1024 * 1024).fill(120);

async function ok(answer: Promise<Response>): Promise<void> {
  const got = await answer;
  const body = await got.bytes();
  if (!got.ok) throw new Error(`${got.status} ${new TextDecoder().decode(body)}`);
}

/** The file calls over HTTP beside the same done by plain calls on the same file system. */
export async function files(appliance: Appliance, work: string, rounds: number): Promise<Summary[]> {
  const plain = join(work, "plain");
  mkdirSync(join(plain, "many"), { recursive: true });
  await ok(
    appliance.call("/v1/exec", {
      namespace: "files",
      json: { command: "mkdir workspace/many; touch workspace/many/{1..200}" },
    }),
  );
  for (let n = 1; n <= 200; n++) closeSync(openSync(join(plain, "many", String(n)), "w"));
  const durable = (name: string, data: string | Uint8Array) => {
    const temporary = join(plain, ".new");
    const fd = openSync(temporary, "w");
    writeSync(fd, data as string);
    fsyncSync(fd);
    closeSync(fd);
    renameSync(temporary, join(plain, name));
    const dir = openSync(plain, "r");
    fsyncSync(dir);
    closeSync(dir);
  };
  const small = await interleaved(
    {
      "write 1 KiB, durable: HTTP": () =>
        ok(appliance.call("/write", { namespace: "files", json: { path: "small", content: SMALL } })),
      "write 1 KiB, durable: plain calls": async () => durable("small", SMALL),
      "read 1 KiB: HTTP": () => ok(appliance.call("/files/small", { namespace: "files" })),
      "read 1 KiB: plain calls": async () => void readFileSync(join(plain, "small")),
      "list 200: HTTP": () => ok(appliance.call("/v1/files?path=many", { namespace: "files" })),
      "list 200: plain calls, names only": async () => void readdirSync(join(plain, "many")),
    },
    { rounds, warmups: 5 },
  );
  const large = await interleaved(
    {
      "upload 100 MiB: HTTP": () =>
        ok(appliance.call("/files/large", { namespace: "files", method: "PUT", body: LARGE })),
      "upload 100 MiB: plain calls": async () => durable("large", LARGE),
      "download 100 MiB: HTTP": () => ok(appliance.call("/files/large", { namespace: "files" })),
      "download 100 MiB: plain calls": async () => void readFileSync(join(plain, "large")),
    },
    { rounds: Math.max(3, Math.floor(rounds / 20)), warmups: 1 },
  );
  return [...small, ...large];
}

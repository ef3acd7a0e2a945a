import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Ledger } from "../src/audit/ledger.ts";
import { eventId, namespaceId } from "../src/ids.ts";
import { fileClient, startFileApi } from "../test/fixtures/file-api.ts";
import { interleaved, together, type Summary } from "./stats.ts";

const SMALL = "x".repeat(1024);

/** As if nothing were recorded. */
const unrecorded: Pick<Ledger, "begin"> = {
  begin: async () => ({ id: eventId.make(), complete: async () => {}, abandon: async () => {} }),
};

/** A small durable write over HTTP as it is, beside the same without its event, in one process and on one disk. */
export async function auditCost(work: string, rounds: number): Promise<Summary[]> {
  const open = async (name: string, ledger?: Pick<Ledger, "begin">) => {
    const dir = join(work, name);
    mkdirSync(dir);
    const api = await startFileApi(dir, {}, ledger === undefined ? {} : { ledger });
    const client = fileClient(api.port, namespaceId.make());
    const write = async (path = "small"): Promise<void> => {
      const answer = await client.write(path, SMALL);
      if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
      await answer.json();
    };
    return { api, write };
  };
  const recorded = await open("recorded");
  const bare = await open("bare", unrecorded);
  const rows = await interleaved(
    {
      "write 1 KiB: with its event": () => recorded.write(),
      "write 1 KiB: without": () => bare.write(),
    },
    { rounds, warmups: 50 },
  );
  let next = 0;
  for (const [name, { write }] of Object.entries({ "with its event": recorded, without: bare })) {
    rows.push(
      await together(`write 1 KiB, 16 at a time: ${name}`, 16, rounds * 8, () => write(`f${next++ % 64}`)),
    );
  }
  await recorded.api.stop();
  await bare.api.stop();
  return rows;
}

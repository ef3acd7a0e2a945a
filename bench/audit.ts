import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { announcedCommand, completedCommand } from "../src/api/exec-event.ts";
import { APPLIANCE } from "../src/audit/event.ts";
import type { Ledger } from "../src/audit/ledger.ts";
import { eventId, namespaceId, workspaceId } from "../src/ids.ts";
import type { ExecEnd } from "../src/sandbox/exec.ts";
import { fileClient, startFileApi } from "../test/fixtures/file-api.ts";
import { startLedger } from "../test/fixtures/ledger.ts";
import { startServerLedger } from "../test/fixtures/server-ledger.ts";
import { startSqld } from "../test/fixtures/sqld.ts";
import { realLibrary, stageExec } from "../test/privileged/sandbox/stage.ts";
import { interleaved, summary, type Summary } from "./stats.ts";

const SMALL = "x".repeat(1024);

/** As if nothing were recorded. */
const unrecorded: Pick<Ledger, "begin"> = {
  begin: async () => ({
    id: eventId.make(),
    onDisk: Promise.resolve(),
    complete: async () => {},
    abandon: async () => {},
  }),
};

/**
 * A small durable write over HTTP as it is, beside the same without its event and with it on a libSQL server of this
 * host, in one process and on one disk.
 */
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
  const server = await startSqld();
  const remote = await startServerLedger(server.url);
  const elsewhere = await open("elsewhere", remote.ledger);
  const rows = await interleaved(
    {
      "write 1 KiB: with its event": () => recorded.write(),
      "write 1 KiB: without": () => bare.write(),
      "write 1 KiB: with its event, on a server": () => elsewhere.write(),
    },
    { rounds, warmups: 50 },
  );
  rows.push(
    ...(await crowded(
      {
        "write 1 KiB, 16 at a time: with its event": recorded.write,
        "write 1 KiB, 16 at a time: without": bare.write,
        "write 1 KiB, 16 at a time: on a server": elsewhere.write,
      },
      rounds * 8,
    )),
  );
  await recorded.api.stop();
  await bare.api.stop();
  await elsewhere.api.stop();
  await remote.close();
  await server[Symbol.asyncDispose]();
  return rows;
}

/** A warm command as api runs it, with what is recorded of it and without; HTTP is the same for both. */
export async function execCost(work: string, rounds: number): Promise<Summary[]> {
  const stage = await stageExec(realLibrary());
  const dir = join(work, "exec-log");
  mkdirSync(dir);
  const started = await startLedger({ dir });
  const namespace = stage.namespace();
  const [command, chain] = ["echo hi", workspaceId.make()];
  const recorded = async () => {
    const data = announcedCommand(command);
    const draft = { chain, type: "exec.completed", namespace: "n", data, origin: APPLIANCE };
    const announced = started.ledger.announce({ ...draft, namespaceId: namespace });
    const ends: ExecEnd[] = [];
    await stage.exec.exec({ namespace, command, announced, onEnd: (end) => void ends.push(end) });
    const [end] = ends;
    if (end === undefined) throw new Error("no end of the command was told");
    const announcement = await announced;
    await Promise.all([announcement.onDisk, announcement.complete(completedCommand(data, end, null))]);
  };
  const rows = await interleaved(
    {
      "echo hi: warm, with its event": recorded,
      "echo hi: warm, without": async () => void (await stage.exec.exec({ namespace, command })),
    },
    { rounds, pauseMs: 100, warmups: 5 },
  );
  await stage.end();
  await started.close();
  return rows;
}

/** 16 at a time, in turns of some hundred of each, so that both meet the same moments of a noisy machine. */
async function crowded(
  things: Record<string, (path: string) => Promise<void>>,
  total: number,
): Promise<Summary[]> {
  const turn = 160;
  const times = new Map<string, number[]>(Object.keys(things).map((name) => [name, []]));
  let next = 0;
  for (let done = 0; done < total; done += turn) {
    for (const [name, write] of Object.entries(things)) {
      let left = turn;
      const worker = async () => {
        while (left-- > 0) {
          const start = performance.now();
          await write(`f${next++ % 64}`);
          times.get(name)?.push(performance.now() - start);
        }
      };
      await Promise.all(Array.from({ length: 16 }, worker));
    }
  }
  return [...times].map(([name, list]) => summary({ name, times: list }));
}

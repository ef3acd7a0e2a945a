import { readFileSync } from "node:fs";
import { APPLIANCE, type EventDraft } from "../src/audit/event.ts";
import { openLedger } from "../src/audit/ledger.ts";
import { openDatabase } from "../src/db/open.ts";
import { workspaceId, type WorkspaceId } from "../src/ids.ts";
import { openInstance } from "../src/instance/instance.ts";
import { createLog } from "../src/log.ts";
import { createSecrets } from "../src/secrets.ts";
import type { Appliance } from "../test/fixtures/appliance.ts";
import { interleaved, type Summary } from "./stats.ts";

const COUNT = 100_000;
/** The 500th has a type of its own, the 600th a namespace. */
const RARE = { type: 500, namespace: 600 };

/** Puts 100,000 events into the workspace of an appliance that is stopped: half of them commands, most in one namespace. */
export async function fillLog({ data, keys }: Pick<Appliance, "data" | "keys">): Promise<void> {
  const instance = openInstance(data);
  const db = await openDatabase(instance.api.database);
  const secrets = createSecrets(readFileSync(instance.masterKeyFile));
  const ledger = await openLedger({ db, secrets, log: createLog("bench", () => {}) });
  const chain = workspaceId.schema.parse(keys.workspace_id);
  for (let n = 0; n < COUNT; n += 250) {
    await ledger.append(Array.from({ length: 250 }, (_, index) => draftOf(chain, n + index)));
  }
  await ledger.close();
  db.close();
}

function draftOf(chain: WorkspaceId, n: number): EventDraft {
  const namespace = n === RARE.namespace ? "rare" : n % 10 < 8 ? "busy" : `quiet-${n % 50}`;
  const common = { chain, namespace, origin: APPLIANCE };
  if (n === RARE.type)
    return { ...common, type: "snapshot.created", data: { snapshot_id: "snap-a", label: "x" } };
  if (n % 2 === 0) {
    const data = { path: `workspace/some/where/${n}.txt`, size_bytes: n, sha256: "a".repeat(64) };
    return { ...common, type: "file.written", data };
  }
  const output = { command: `grep -rn ${"x".repeat(200)} workspace`, stdout: "y".repeat(400) };
  return {
    ...common,
    type: "exec.completed",
    data: { ...output, exit_code: 0, duration_ms: 12, timed_out: false },
  };
}

/** Pages of that log over HTTP, whatever is common or rare in them. */
export async function events(appliance: Appliance, rounds: number): Promise<Summary[]> {
  const { workspace_id: ws, admin_key: key } = appliance.keys;
  const page = async (query: string) => {
    const answer = await appliance.call(`/v1/workspaces/${ws}/events?${query}`, { key, namespace: null });
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
    return (await answer.json()) as { events: { created_at: string }[]; next_cursor: string | null };
  };
  /** A cursor in the middle of what a query finds. */
  const deep = async (query: string) => {
    let cursor = "";
    for (let pages = 0; pages < 40; pages++) {
      const next = await page(`${query}&limit=1000${cursor}`);
      if (next.next_cursor === null) break;
      cursor = `&cursor=${next.next_cursor}`;
    }
    return `${query}${cursor}`;
  };
  const bookmark = (await page("limit=10")).events.at(-1)?.created_at ?? "";
  const queries: Record<string, string> = {
    "first 100": "limit=100",
    "first 1000": "limit=1000",
    "100 from the middle": `${await deep("")}&limit=100`,
    "since a moment ago": `since=${bookmark}&limit=200`,
    "since the beginning, 1000": "since=2020-01-01&limit=1000",
    "a common type, 1000": "types=file.written&limit=1000",
    "a common type, from the middle": `${await deep("types=file.written")}&limit=100`,
    "two common types": "types=file.written,exec.completed",
    "a rare type": "types=snapshot.created",
    "seven types that are not there": "types=run.*,credential.*",
    "a busy namespace, 1000": "namespace=busy&limit=1000",
    "a busy namespace, from the middle": `${await deep("namespace=busy")}&limit=100`,
    "a rare namespace": "namespace=rare",
    "a namespace that is not there": "namespace=none",
    "a rare type in a busy namespace": "namespace=busy&types=snapshot.created",
    "a type that is not there, in a busy namespace": "namespace=busy&types=run.merged",
  };
  return interleaved(
    Object.fromEntries(
      Object.entries(queries).map(([name, query]) => [
        `events of 100,000: ${name}`,
        async () => void (await page(query)),
      ]),
    ),
    { rounds },
  );
}

import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createCalls } from "../../../src/keys/calls.ts";
import { createKeys } from "../../../src/keys/keys.ts";
import { keys as keyTable, namespaces as namespaceTable } from "../../../src/db/schema.ts";
import { allEvents } from "../../fixtures/chain.ts";
import { startLedger } from "../../fixtures/ledger.ts";

const WRITER = resolve(import.meta.dir, "../../fixtures/writer.ts");
const ROUNDS = 8;

test("what was acknowledged before a kill -9 is there after it, and what was revoked stays so", async () => {
  const dir = mkdtempSync(join(tmpdir(), "cofferdam-crash-"));
  const said = { namespace: new Set<string>(), key: new Set<string>(), revoked: new Set<string>() };
  for (let round = 0; round < ROUNDS; round++) {
    const writer = Bun.spawn([process.execPath, WRITER, dir], { stdout: "pipe", stderr: "inherit" });
    // At a random moment of its work.
    const enough = 40 + Math.random() * 80;
    let output = "";
    for await (const piece of writer.stdout.pipeThrough(new TextDecoderStream())) {
      output += piece;
      if (output.split("\n").length > enough) writer.kill("SIGKILL");
    }
    await writer.exited;
    // A last line without its end was not acknowledged.
    for (const line of output.split("\n").slice(0, -1)) {
      const [what = "", text = ""] = line.split(" ");
      if (what in said) said[what as keyof typeof said].add(text);
    }

    const started = await startLedger({ dir });
    const { db, ledger } = started;
    expect(await db.faults()).toEqual([]);
    const names = new Set((await db.select().from(namespaceTable)).map((row) => row.name));
    expect([...said.namespace].filter((name) => !names.has(name))).toEqual([]);
    const keys = createKeys({ db, ledger, calls: createCalls() });
    for (const apiKey of said.key) {
      const works = (await keys.authenticate(apiKey)) !== null;
      // A revocation may have been done and not said, never the other way round.
      if (said.revoked.has(apiKey)) expect(works).toBe(false);
    }
    const lost = await Promise.all(
      [...said.key].map(
        async (apiKey) => (await keys.authenticate(apiKey)) === null && !said.revoked.has(apiKey),
      ),
    );
    // At most the revocations in flight when it was killed, one for each of its four workers.
    expect(lost.filter(Boolean).length).toBeLessThanOrEqual(4 * (round + 1));
    // Of each key exactly what the log says of it, and no event of anything else.
    const rows = await db.select().from(keyTable);
    const events = await allEvents(db);
    const ids = (type: string) =>
      events
        .filter((event) => event.type === type)
        .map(({ data }) => data["key_id"] as string)
        .toSorted();
    expect(ids("key.created")).toEqual(rows.map(({ id }) => id as string).toSorted());
    const revoked = rows.filter(({ revokedAt }) => revokedAt !== null);
    expect(ids("key.revoked")).toEqual(revoked.map(({ id }) => id as string).toSorted());
    await started.close();
  }
  expect(said.namespace.size).toBeGreaterThan(100);
  expect(said.revoked.size).toBeGreaterThan(10);
  rmSync(dir, { recursive: true });
}, 120_000);

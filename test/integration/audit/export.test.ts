import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportChain } from "../../../src/audit/export.ts";
import { auditKeys } from "../../../src/audit/keys.ts";
import { createRetention } from "../../../src/audit/retention.ts";
import { append, startAudit } from "../../fixtures/audit.ts";

/** The procedure as docs/audit.md gives it. */
const procedure = /<<'PY'\n([\s\S]*?)\n> PY\n/
  .exec(readFileSync(join(import.meta.dir, "../../../docs/audit.md"), "utf8"))![1]!
  .replaceAll(/^> ?/gm, "");

type Audit = Awaited<ReturnType<typeof startAudit>>;

async function exported({ db, ledger, secrets, chain }: Audit): Promise<string> {
  const { signer } = auditKeys(secrets);
  let lines = "";
  for await (const some of exportChain({ db, signer, chain, head: ledger.head(chain)! })) lines += some;
  return lines;
}

function check({ secrets }: Audit, lines: string): { code: number; said: string } {
  const dir = mkdtempSync(join(tmpdir(), "cofferdam-export-"));
  const file = (name: string, text: string) => {
    writeFileSync(join(dir, name), text);
    return join(dir, name);
  };
  const { exitCode, stdout, stderr } = Bun.spawnSync([
    "python3",
    file("verify.py", procedure),
    file("key.pem", auditKeys(secrets).signer.publicKeyPem),
    file("events.ndjson", lines),
  ]);
  return { code: exitCode, said: stdout.toString() + stderr.toString() };
}

test("the documented procedure finds an export whole, also after retention", async () => {
  const audit = await startAudit(1100);
  const whole = (from: number): unknown =>
    expect.stringMatching(new RegExp(`^whole: ${audit.chain}, numbers ${from} to 1100 of 20[-:0-9TZ]+\n$`));
  expect(check(audit, await exported(audit))).toMatchObject({ code: 0, said: whole(1) });
  const { signer } = auditKeys(audit.secrets);
  const limits = { retention_days: 3650, max_events: 100 };
  await createRetention({ ...audit, signer, limits: () => limits }).apply();
  const rest = await exported(audit);
  expect(rest.split("\n")).toHaveLength(1 + 100 + 1 + 1);
  expect(check(audit, rest)).toMatchObject({ code: 0, said: whole(1001) });
  await audit.close();
});

const EVENT = /"event":([^]*)(?=,"hash":)/;

const TAMPERING: Record<string, (lines: string[]) => string[]> = {
  "a changed event": (lines) => lines.map((line) => line.replace('"n":5', '"n":6')),
  "a missing event": (lines) => lines.toSpliced(3, 1),
  "a missing end": (lines) => lines.toSpliced(-2, 1),
  "two in another order": (lines) => [lines[0]!, lines[2]!, lines[1]!, ...lines.slice(3)],
  "a changed checkpoint": (lines) => lines.with(0, lines[0]!.replace(/"cut_at":\d/, '"cut_at":9')),
  "an event that is there twice in its line": (lines) =>
    lines.map((line) => line.replace(EVENT, (field) => `${field.replace('"n":5', '"n":6')},${field}`)),
  "an event with a name twice": (lines) => lines.map((line) => line.replace('"n":5', '"n":6,"n":5')),
  "a changed signature": (lines) => [
    ...lines.slice(0, -1),
    lines.at(-1)!.replace(/"signature":"..../, '"signature":"AAAA'),
  ],
};

for (const [what, tamper] of Object.entries(TAMPERING)) {
  test(`the documented procedure finds ${what}`, async () => {
    const audit = await startAudit(12);
    const { signer } = auditKeys(audit.secrets);
    const limits = { retention_days: 3650, max_events: 10 };
    await createRetention({ ...audit, signer, limits: () => limits }).apply();
    const lines = (await exported(audit)).trimEnd().split("\n");
    expect(check(audit, `${lines.join("\n")}\n`).code).toBe(0);
    expect(check(audit, `${tamper(lines).join("\n")}\n`).code).not.toBe(0);
    await audit.close();
  });
}

test("the documented procedure takes no older end for a beginning, and no other log's", async () => {
  const audit = await startAudit(5);
  const early = (await exported(audit)).trimEnd().split("\n");
  const beginning = early.at(-1)!.replace("end", "begin");
  for (let n = 6; n <= 9; n++) await append(audit, audit.chain, n);
  const late = (await exported(audit)).trimEnd().split("\n");
  expect(check(audit, `${[beginning, ...late.slice(6)].join("\n")}\n`).code).not.toBe(0);
  const { signer } = auditKeys(audit.secrets);
  await createRetention({
    ...audit,
    signer,
    limits: () => ({ retention_days: 3650, max_events: 5 }),
  }).apply();
  const [begin = ""] = (await exported(audit)).split("\n");
  expect(check(audit, `${[...late.slice(0, 5), begin.replace("begin", "end")].join("\n")}\n`).code).not.toBe(
    0,
  );
  await audit.close();
});

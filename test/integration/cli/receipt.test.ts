import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createReceiptSigner, type ReceiptFacts } from "../../../src/runs/receipt.ts";
import { createSecrets } from "../../../src/secrets.ts";
import { MAIN } from "../../fixtures/cli-api.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const signerOf = (byte: number) => createReceiptSigner(createSecrets(new Uint8Array(32).fill(byte)));

/** All that the command needs of it. */
const FACTS = {
  run_id: "run-abcdefghij",
  status: "succeeded",
  finished_at: "2026-11-27T02:00:02.000Z",
  asked_by: { key_id: "key-aaaaaaaaaaaaaaaa", local_user: null },
  usage_complete: true,
} as unknown as ReceiptFacts;

function verify(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, MAIN, "receipt", "verify", ...args]);
  return { exitCode, out: stdout.toString(), err: stderr.toString() };
}

test("a receipt is verified from two files alone, and what is wrong with it is said", () => {
  using scratch = scratchDirectory();
  const file = (name: string, content: string) => {
    const path = join(scratch.path, name);
    writeFileSync(path, content);
    return path;
  };
  const [own, other] = [signerOf(1), signerOf(2)];
  const receipt = own.createReceipt(FACTS);
  const key = file("key.pem", own.key.public_key);
  const whole = file("whole.json", JSON.stringify(receipt));

  expect(verify(whole, "--key", key)).toEqual({
    exitCode: 0,
    out: `The receipt holds: run-abcdefghij, asked for by key-aaaaaaaaaaaaaaaa, ended 2026-11-27T02:00:02.000Z as succeeded. Signed by the key ${own.key.key_id}.\n`,
    err: "",
  });
  const json = verify(whole, "--key", key, "--json");
  expect(JSON.parse(json.out)).toEqual({
    ok: true,
    key_id: own.key.key_id,
    payload: { version: 1, ...FACTS },
  });

  const lacking = own.createReceipt({ ...FACTS, usage_complete: false });
  const partial = verify(file("partial.json", JSON.stringify(lacking)), "--key", key);
  expect([partial.exitCode, partial.out.split("\n")[1]]).toEqual([
    0,
    "What it says that the run used is not all: the gateway was away when it ended. The rest is in the audit log, after this receipt's head.",
  ]);

  // As it was made before receipts said so.
  const { usage_complete: _, ...before } = FACTS;
  const earlier = own.createReceipt(before as ReceiptFacts);
  const old = verify(file("old.json", JSON.stringify(earlier)), "--key", key);
  expect([old.exitCode, old.out.split("\n")[1]]).toEqual([
    0,
    "It does not say whether what the run used is all there: an older version made it.",
  ]);

  const payload = receipt.payload.replace("succeeded", "succeedee");
  const changed = verify(file("changed.json", JSON.stringify({ ...receipt, payload })), "--key", key);
  expect([changed.exitCode, changed.out]).toEqual([
    1,
    "The receipt does not hold: its payload is not what was signed.\n",
  ]);
  const wrongKey = verify(whole, "--key", file("other.pem", other.key.public_key), "--json");
  expect([wrongKey.exitCode, JSON.parse(wrongKey.out)]).toEqual([
    1,
    { ok: false, reason: `it names the key ${own.key.key_id}, and the one given is ${other.key.key_id}` },
  ]);
  for (const [name, content] of Object.entries({
    "no json": "receipt",
    "a field more": JSON.stringify({ ...receipt, note: "" }),
    "none of them": "{}",
  })) {
    const odd = verify(file("odd.json", content), "--key", key);
    expect([name, odd.exitCode, odd.out]).toEqual([
      name,
      1,
      "The receipt does not hold: it is no receipt.\n",
    ]);
  }
  expect(verify(whole).exitCode).toBe(2);
  expect(verify(whole, "--key", join(scratch.path, "none"))).toMatchObject({ exitCode: 2, out: "" });
});

import { describe, expect, test } from "bun:test";
import { generateKeyPairSync, sign } from "node:crypto";
import { keyId, runId, workspaceId } from "../../../src/ids.ts";
import { createReceiptSigner, faultOf, type Receipt, type ReceiptFacts } from "../../../src/runs/receipt.ts";
import { createSecrets } from "../../../src/secrets.ts";

const hash = "0".repeat(64);

const FACTS: ReceiptFacts = {
  run_id: runId.make(),
  workspace_id: workspaceId.make(),
  namespace: "own",
  label: 'a "label"\u2028 with € and \ud800',
  asked_by: { key_id: keyId.make(), local_user: null },
  request_sha256: hash,
  status: "succeeded",
  exit_code: 0,
  error: null,
  created_at: "2026-11-27T02:00:00.000Z",
  started_at: "2026-11-27T02:00:01.000Z",
  finished_at: "2026-11-27T02:00:02.000Z",
  timings: { run_ms: 1000, boot_ms: 200 },
  peak_memory_bytes: 1_000_000,
  cpu_ms: 123,
  sandbox: { spec_sha256: hash, seccomp_sha256: hash, rootfs: `sha256:${hash}`, runsc: "1" },
  cofferdam: "0.1.0",
  policy: { llm: [], git: null, egress: null, direct: [{ address: "192.0.2.1", port: 1 }] },
  limits: { timeout_s: 60, memory_mb: 1024, cpus: 0.5, pids: 10, disk_mb: 10 },
  worktree: { from: "namespace", base: hash, result: null, changes: null },
  llm: [
    {
      model: "m",
      requests: 1,
      input_tokens: 2,
      output_tokens: 3,
      cache_read_tokens: 0,
      cache_write_tokens: 0,
      usd_nano: 4_000_000_001,
    },
  ],
  git: {
    fetches: 1,
    pushes: 1,
    refs: [{ repository: "o/r", ref: "refs/heads/x", old: "0", new: "a".repeat(40), accepted: true }],
  },
  egress: [{ host: "example.org:443", connections: 1, bytes: 2 }],
  usage_complete: true,
  denials: [{ at: "2026-11-27T02:00:01.000Z", kind: "llm", reason: "model", count: 1 }],
  audit: { before: { seq: 1, hash }, after: { seq: 9, hash } },
};

const signer = createReceiptSigner(createSecrets(new Uint8Array(32).fill(7)));
const pem = signer.key.public_key;
const receipt = signer.createReceipt(FACTS);

/** RFC 8785 as its text has it: names by their UTF-16 units, no white space, ECMAScript's strings and numbers. */
function canonical(value: unknown): string {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  const names = Object.keys(value).sort();
  const fields = names.map(
    (name) => `${JSON.stringify(name)}:${canonical((value as Record<string, unknown>)[name])}`,
  );
  return `{${fields.join(",")}}`;
}

test("a receipt says the facts in canonical JSON, and its key's holder signed it", () => {
  expect(faultOf(receipt, pem)).toBeNull();
  const told = JSON.parse(receipt.payload) as Record<string, unknown>;
  expect(told).toEqual({ ...FACTS, version: 1, label: 'a "label"\u2028 with € and \ufffd' } as never);
  expect(receipt.payload).toBe(canonical(told));
  expect(receipt.key_id).toBe(signer.key.key_id);
  expect(signer.key.algorithm).toBe("ed25519");
});

test("the key is the same after a restart, another appliance's is another, and the audit log has its own", () => {
  const again = createReceiptSigner(createSecrets(new Uint8Array(32).fill(7)));
  const other = createReceiptSigner(createSecrets(new Uint8Array(32).fill(8)));
  expect(again.key).toEqual(signer.key);
  expect(other.key.key_id).not.toBe(signer.key.key_id);
  expect(faultOf(receipt, other.key.public_key)).toContain("names the key");
  expect(faultOf({ ...receipt, key_id: other.key.key_id }, other.key.public_key)).toContain(
    "not what was signed",
  );
});

test("any changed byte of a receipt shows", () => {
  for (const field of ["payload", "signature", "key_id"] as const) {
    for (let at = 0; at < receipt[field].length; at++) {
      const text = receipt[field];
      const changed = text.slice(0, at) + String.fromCharCode(text.charCodeAt(at) ^ 1) + text.slice(at + 1);
      expect(faultOf({ ...receipt, [field]: changed }, pem)).not.toBeNull();
    }
    expect(faultOf({ ...receipt, [field]: receipt[field].slice(1) }, pem)).not.toBeNull();
    expect(faultOf({ ...receipt, [field]: `${receipt[field]} ` }, pem)).not.toBeNull();
  }
});

describe("refused", () => {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const own = publicKey.export({ format: "pem", type: "spki" });
  const keyIdText = /given is (\w+)/.exec(faultOf(receipt, own) ?? "")?.[1] ?? "";
  const signed = (payload: string): Receipt => ({
    payload,
    signature: sign(null, Buffer.from(payload), privateKey).toString("base64"),
    key_id: keyIdText,
  });

  test("what is signed but not canonical: two readers could see two things in it", () => {
    expect(faultOf(signed('{"a":1}'), own)).toBeNull();
    for (const payload of [
      '{"a":1,"a":2}',
      '{"b":1,"a":2}',
      '{ "a":1}',
      '{"a":1.0}',
      '{"a":"\\u0041"}',
      "no",
      '"\\ud800"',
    ])
      expect(faultOf(signed(payload), own)).toContain("canonical");
  });

  test("a key of another kind, and what is none", () => {
    const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey.export({
      format: "pem",
      type: "spki",
    });
    for (const key of [rsa, "", "hello", pem.replace("MCow", "MCox")])
      expect(faultOf(receipt, key)).toContain("no ed25519 public key");
  });
});

import { createHash, createPublicKey, verify, type KeyObject } from "node:crypto";
import { z } from "zod";
import { createSigner } from "../audit/signer.ts";
import type { KeyId, RunId, WorkspaceId } from "../ids.ts";
import type { RunMake } from "../protocol/sandboxd.ts";
import type { Secrets } from "../secrets.ts";
import { canonicalize } from "./canonical.ts";
import type { RunGrants, RunLimits } from "./grants.ts";
import type { RunUsage } from "./usage.ts";

const VERSION = 1;
const ALGORITHM = "ed25519";

/** Of a workspace's chain of events: what a later look at the log can be compared with. */
interface ChainHead {
  readonly seq: number;
  readonly hash: string;
}

/**
 * What a receipt says of a run, as its payload has it. Times are ISO 8601, amounts of money billionths of a dollar,
 * hashes SHA-256; null is what was not there or is not known.
 */
export interface ReceiptFacts {
  readonly run_id: RunId;
  readonly workspace_id: WorkspaceId;
  readonly namespace: string;
  readonly label: string | null;
  /** A key, or somebody on the host. */
  readonly asked_by: { readonly key_id: KeyId | null; readonly local_user: string | null };
  /** Of what it was asked to do, in canonical JSON: the text itself is the caller's to keep. */
  readonly request_sha256: string;

  readonly status: string;
  readonly exit_code: number | null;
  readonly error: string | null;
  readonly created_at: string;
  readonly started_at: string | null;
  readonly finished_at: string;
  readonly timings: Readonly<Record<string, number>>;
  readonly peak_memory_bytes: number | null;
  readonly cpu_ms: number | null;

  /** What it ran in; null when it did not come to that. */
  readonly sandbox: RunMake | null;
  /** The appliance's version. */
  readonly cofferdam: string;
  /** What it was allowed, narrowed by its workspace's policy, without secrets. */
  readonly policy: RunGrants;
  readonly limits: RunLimits;

  readonly worktree: {
    readonly from: string | null;
    /** Of the manifest that it began with, and of what is different at the end. */
    readonly base: string | null;
    readonly result: string | null;
    readonly changes: number | null;
  };
  readonly llm: readonly ({ readonly model: string } & RunUsage["llm"]["by_model"][string])[];
  readonly git: RunUsage["git"];
  readonly egress: readonly { readonly host: string; readonly connections: number; readonly bytes: number }[];
  /** Whether that is all. Else the gateway was away at its end, and what is missing came into the log after `audit.after`. */
  readonly usage_complete: boolean;
  readonly denials: readonly {
    readonly at: string;
    readonly kind: string;
    readonly reason: string;
    readonly count: number;
  }[];

  /** When it was made, and when this was signed. */
  readonly audit: { readonly before: ChainHead | null; readonly after: ChainHead | null };
}

export const receiptSchema = z.strictObject({
  /** Canonical JSON, RFC 8785: what is signed, as text. */
  payload: z.string(),
  /** Base64, ed25519 over the payload's bytes. */
  signature: z.string(),
  key_id: z.string(),
});
export type Receipt = z.infer<typeof receiptSchema>;

export type ReceiptSigner = ReturnType<typeof createReceiptSigner>;

/** Signs with a key of its own, which comes from the appliance's secret: it stays the same, and is in no file. */
export function createReceiptSigner(secrets: Pick<Secrets, "derive">) {
  const signer = createSigner(secrets.derive("receipt signature"));
  const key_id = keyIdOf(createPublicKey(signer.publicKeyPem));

  return {
    key: { key_id, algorithm: ALGORITHM, public_key: signer.publicKeyPem },

    createReceipt(facts: ReceiptFacts): Receipt {
      const payload = canonicalize(wellFormed({ version: VERSION, ...facts }));
      return { payload, signature: signer.sign(payload), key_id };
    },
  };
}

/** What is wrong with a receipt; null when the holder of the key has signed exactly that. */
export function faultOf({ payload, signature, key_id }: Receipt, publicKeyPem: string): string | null {
  const key = publicKeyOf(publicKeyPem);
  if (key === null) return "the key is no ed25519 public key in PEM";
  const known = keyIdOf(key);
  if (key_id !== known) return `it names the key ${key_id}, and the one given is ${known}`;
  const bytes = Buffer.from(signature, "base64");
  // The decoder passes over what is not base64, and over bits that do not count.
  if (bytes.toString("base64") !== signature) return "its signature is not in base64";
  if (!verify(null, Buffer.from(payload), key, bytes)) return "its payload is not what was signed";
  return isCanonical(payload) ? null : "its payload is not canonical JSON";
}

/** SHA-256 of the public key as DER (SubjectPublicKeyInfo), the first half. */
function keyIdOf(key: KeyObject): string {
  const der = key.export({ format: "der", type: "spki" });
  return createHash("sha256").update(der).digest("hex").slice(0, 32);
}

function publicKeyOf(pem: string): KeyObject | null {
  try {
    const key = createPublicKey(pem);
    return key.asymmetricKeyType === ALGORITHM ? key : null;
  } catch {
    return null;
  }
}

function isCanonical(payload: string): boolean {
  try {
    return canonicalize(JSON.parse(payload)) === payload;
  } catch {
    return false;
  }
}

/** Half a surrogate pair, which a label or a reason may hold, has no canonical form. */
function wellFormed(value: unknown): unknown {
  if (typeof value === "string") return value.toWellFormed();
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(wellFormed);
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => [name.toWellFormed(), wellFormed(field)]),
  );
}

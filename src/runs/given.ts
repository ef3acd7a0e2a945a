import { createHash, randomBytes } from "node:crypto";
import { z } from "zod";
import type { RunId } from "../ids.ts";
import type { Secrets } from "../secrets.ts";

/** What a run is given that nobody else shall read: kept sealed while it lives, and then no more. */
const schema = z.strictObject({
  /** What it shows to the gateway. */
  token: z.string(),
  /** The request's: its command, or its prompt, whole. */
  text: z.string(),
  env: z.record(z.string(), z.string()),
  stdin: z.string().nullable(),
});
export type Given = z.infer<typeof schema>;

const PURPOSE = "run";
/** It looks like a provider's key, since that is what agents expect. */
const PREFIX = "sk-ant-";
const TOKEN_BYTES = 32;

export function makeToken(): string {
  return PREFIX + randomBytes(TOKEN_BYTES).toString("hex");
}

/** All that the gateway knows of a token. */
export function tokenHash(token: string): string {
  return createHash("sha256").update(token).digest("hex");
}

export function sealGiven(secrets: Pick<Secrets, "seal">, given: Given, run: RunId): Buffer {
  return Buffer.from(secrets.seal(PURPOSE, Buffer.from(JSON.stringify(given)), run));
}

export function openGiven(secrets: Pick<Secrets, "open">, sealed: Uint8Array, run: RunId): Given {
  return schema.parse(JSON.parse(Buffer.from(secrets.open(PURPOSE, sealed, run)).toString()));
}

import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { createSecrets } from "../secrets.ts";

/**
 * The appliance's secret, which everything else is derived from and sealed under, wrapped by the master key: so a new
 * master key means to wrap 32 bytes anew, and no data is touched. While the key is changed, both open it.
 */
const keyringSchema = z.strictObject({
  version: z.literal(1),
  /** By the master key's id, in base64. */
  wrapped: z.record(z.string(), z.base64()),
});

export const MASTER_KEY_BYTES = 32;
const PURPOSE = "appliance secret";

/** Tells which master key opens an entry, and nothing about the key. */
function idOf(masterKey: Uint8Array): string {
  return Buffer.from(createSecrets(masterKey).derive("master key id").subarray(0, 8)).toString("hex");
}

/** An appliance without its key must not come up and take data all the same. */
export function checkMasterKey(masterKey: Uint8Array, where = "The master key"): Uint8Array {
  if (masterKey.length === MASTER_KEY_BYTES) return masterKey;
  throw new AppError(
    "unavailable",
    `${where} has ${masterKey.length} bytes instead of ${MASTER_KEY_BYTES}; restore master.key from a backup.`,
  );
}

export function newSecret(): Uint8Array {
  return randomBytes(MASTER_KEY_BYTES);
}

/** A keyring's text: the secret wrapped by each of the master keys. */
export function keyringText(secret: Uint8Array, masterKeys: readonly Uint8Array[]): string {
  const wrapped = masterKeys.map((masterKey) => {
    const id = idOf(masterKey);
    return [id, Buffer.from(createSecrets(masterKey).seal(PURPOSE, secret, id)).toString("base64")];
  });
  return `${JSON.stringify({ version: 1, wrapped: Object.fromEntries(wrapped) })}\n`;
}

export interface Keyring {
  readonly secret: Uint8Array;
  /** How many master keys open it. */
  readonly wraps: number;
}

/** Throws an AppError when the file is missing or spoiled, or of another master key. */
export function openKeyring(file: string, masterKey: Uint8Array): Keyring {
  checkMasterKey(masterKey);
  return openKeyringText(read(file), masterKey, file);
}

/** The same of a keyring's text; `file` is what messages call it. */
export function openKeyringText(text: string, masterKey: Uint8Array, file: string): Keyring {
  checkMasterKey(masterKey);
  const { wrapped } = parse(text, file);
  const id = idOf(masterKey);
  const entry = wrapped[id];
  if (entry === undefined) {
    throw new AppError(
      "unavailable",
      `${file} is not opened by this master key; restore the two of them together, from one backup.`,
    );
  }
  try {
    const secret = createSecrets(masterKey).open(PURPOSE, Buffer.from(entry, "base64"), id);
    return { secret, wraps: Object.keys(wrapped).length };
  } catch (error) {
    throw spoiled(file, error);
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new AppError("unavailable", `${file} cannot be read (${code}); restore it from a backup.`, {
      cause: error,
    });
  }
}

function parse(text: string, file: string): z.infer<typeof keyringSchema> {
  try {
    return keyringSchema.parse(JSON.parse(text));
  } catch (error) {
    throw spoiled(file, error);
  }
}

function spoiled(file: string, cause: unknown): AppError {
  return new AppError("unavailable", `${file} is damaged; restore it from a backup.`, { cause });
}

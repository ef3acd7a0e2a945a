import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";

const KEY_BYTES = 32;
const CIPHER = "aes-256-gcm";
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const VERSION = 1;

export type Secrets = ReturnType<typeof createSecrets>;

/** All that depends on one secret of 32 bytes, the appliance's mostly: keys derived from it, and what is sealed at rest. */
export function createSecrets(secret: Uint8Array) {
  const text = new TextEncoder();
  const keys = new Map<string, Uint8Array>();

  /** A key of its own for each purpose (HKDF-SHA256). */
  function derive(purpose: string, bytes = KEY_BYTES): Uint8Array {
    const known = keys.get(purpose);
    if (known?.length === bytes) return known;
    const key = hkdf(sha256, secret, undefined, text.encode(`cofferdam ${purpose}`), bytes);
    keys.set(purpose, key);
    return key;
  }

  return {
    derive,

    /** `boundTo` names what the secret belongs to: sealed for one row, it opens in no other. */
    seal(purpose: string, plain: Uint8Array, boundTo: string): Uint8Array {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv(CIPHER, derive(purpose), nonce).setAAD(text.encode(boundTo));
      const sealed = [cipher.update(plain), cipher.final()];
      return Buffer.concat([Buffer.of(VERSION), nonce, ...sealed, cipher.getAuthTag()]);
    },

    /** Throws when it was sealed otherwise, or changed since. */
    open(purpose: string, sealed: Uint8Array, boundTo: string): Uint8Array {
      const bytes = Buffer.from(sealed);
      if (bytes[0] !== VERSION || bytes.length < 1 + NONCE_BYTES + TAG_BYTES) {
        throw new Error(`a sealed secret of ${boundTo} is of no known form`);
      }
      const nonce = bytes.subarray(1, 1 + NONCE_BYTES);
      const decipher = createDecipheriv(CIPHER, derive(purpose), nonce).setAAD(text.encode(boundTo));
      decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
      return Buffer.concat([decipher.update(bytes.subarray(1 + NONCE_BYTES, -TAG_BYTES)), decipher.final()]);
    },
  };
}

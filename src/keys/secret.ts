import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils.js";

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/** Each character holds 5.95 bits: 43 that nobody sees again hold 256, after those that lists show. */
const SHOWN = 5;
const LENGTH = SHOWN + 43;
const API_KEY = new RegExp(`^trove-sk-(admin-)?[${ALPHABET}]{${LENGTH}}$`);

export interface ApiKey {
  readonly apiKey: string;
  readonly prefix: string;
  readonly hash: string;
}

export function makeApiKey(scope: "admin" | "workspace"): ApiKey {
  const start = scope === "admin" ? "trove-sk-admin-" : "trove-sk-";
  const apiKey = start + randomText(LENGTH);
  return { apiKey, prefix: apiKey.slice(0, start.length + SHOWN), hash: hashOf(apiKey) };
}

/** Whether a text has a key's form at all, so that nothing else costs a look-up. */
export function isApiKey(text: string): boolean {
  return API_KEY.test(text);
}

/** A key holds enough randomness that a plain hash can't be searched. */
export function hashOf(apiKey: string): string {
  return bytesToHex(sha256(utf8ToBytes(apiKey)));
}

function randomText(length: number): string {
  let text = "";
  while (text.length < length) {
    for (const byte of crypto.getRandomValues(new Uint8Array(length * 2))) {
      // 248 is the largest multiple of 62 in a byte; the rest would make some characters likelier.
      if (byte < 248 && text.length < length) text += ALPHABET.charAt(byte % ALPHABET.length);
    }
  }
  return text;
}

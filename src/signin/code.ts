import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils.js";

/**
 * RFC 8628, 6.1: consonants alone, so that no two look or sound alike by case and none make a word. Eight of them are
 * 34 bits, which is enough only because guesses are counted (guesses.ts).
 */
const ALPHABET = "BCDFGHJKLMNPQRSTVWXZ";
const LENGTH = 8;
const USER_CODE = new RegExp(`^[${ALPHABET}]{${LENGTH}}$`);
const DEVICE_BYTES = 32;
const DEVICE_CODE = /^[A-Za-z0-9_-]{43}$/;

/** What a person reads from one screen and types into another, without its dash. */
export type UserCode = string & { readonly "": unique symbol };

export function makeUserCode(): UserCode {
  let text = "";
  while (text.length < LENGTH) {
    for (const byte of crypto.getRandomValues(new Uint8Array(LENGTH * 2))) {
      // 240 is the largest multiple of 20 in a byte; the rest would make some letters likelier.
      if (byte < 240 && text.length < LENGTH) text += ALPHABET.charAt(byte % ALPHABET.length);
    }
  }
  return text as UserCode;
}

/** However it was typed: in small letters, with spaces, without the dash. null for what can't be a code. */
export function readUserCode(typed: string): UserCode | null {
  const text = typed.slice(0, 64).replaceAll(/[\s-]/g, "").toUpperCase();
  return USER_CODE.test(text) ? (text as UserCode) : null;
}

/** "BCDF-GHJK" */
export function shownUserCode(code: UserCode): string {
  return `${code.slice(0, LENGTH / 2)}-${code.slice(LENGTH / 2)}`;
}

/** Keyed: the 34 bits of a bare hash could be searched by who reads the database. */
export function hashUserCode(key: Uint8Array, code: UserCode): string {
  return bytesToHex(hmac(sha256, key, utf8ToBytes(code)));
}

/** What the program polls with: 256 bits. */
export function makeDeviceCode(): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(DEVICE_BYTES))).toString("base64url");
}

/** null for what can't be one. */
export function hashDeviceCode(code: string): string | null {
  return DEVICE_CODE.test(code) ? bytesToHex(sha256(utf8ToBytes(code))) : null;
}

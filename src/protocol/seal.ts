import { createHash, createPrivateKey, createPublicKey, randomBytes } from "node:crypto";
import { Aes256Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core";

/*
 * What api seals and only the gateway opens: HPKE (RFC 9180) to the gateway's X25519 key, base mode, HKDF-SHA256 and
 * AES-256-GCM. A sealed secret is a byte for the version, the encapsulated key, and the ciphertext.
 */
const VERSION = 1;
const KEY_BYTES = 32;
const INFO = new TextEncoder().encode("cofferdam credential");
/** DER of a PKCS #8 X25519 key, up to its 32 bytes. */
const PKCS8_X25519 = Buffer.from("302e020100300506032b656e04220420", "hex");

const suite = () =>
  new CipherSuite({ kem: new DhkemX25519HkdfSha256(), kdf: new HkdfSha256(), aead: new Aes256Gcm() });

/** A new private key. */
export function newSealKey(): Uint8Array {
  return randomBytes(KEY_BYTES);
}

export function publicKeyOf(privateKey: Uint8Array): Uint8Array {
  const key = createPrivateKey({
    key: Buffer.concat([PKCS8_X25519, privateKey]),
    format: "der",
    type: "pkcs8",
  });
  const { x } = createPublicKey(key).export({ format: "jwk" });
  return Buffer.from(x ?? "", "base64url");
}

/** What a public key is called, where people see it. */
export function keyIdOf(publicKey: Uint8Array): string {
  return createHash("sha256").update(publicKey).digest("hex").slice(0, 16);
}

/** `boundTo` names what the secret belongs to: sealed for one credential, it opens for no other. */
export async function sealTo(publicKey: Uint8Array, plain: Uint8Array, boundTo: string): Promise<Uint8Array> {
  const recipientPublicKey = await suite().kem.deserializePublicKey(owned(publicKey));
  const { enc, ct } = await suite().seal({ recipientPublicKey, info: INFO }, owned(plain), aad(boundTo));
  return Buffer.concat([Buffer.of(VERSION), new Uint8Array(enc), new Uint8Array(ct)]);
}

/** Throws when it was sealed to another key or for something else, or was changed since. */
export async function openWith(
  privateKey: Uint8Array,
  sealed: Uint8Array,
  boundTo: string,
): Promise<Uint8Array> {
  if (sealed[0] !== VERSION || sealed.length <= 1 + KEY_BYTES) {
    throw new Error(`a sealed secret of ${boundTo} is of no known form`);
  }
  const recipientKey = await suite().kem.deserializePrivateKey(owned(privateKey));
  const enc = owned(sealed.subarray(1, 1 + KEY_BYTES));
  const ct = owned(sealed.subarray(1 + KEY_BYTES));
  return new Uint8Array(await suite().open({ recipientKey, enc, info: INFO }, ct, aad(boundTo)));
}

function aad(boundTo: string): ArrayBuffer {
  return owned(new TextEncoder().encode(boundTo));
}

/** A Buffer's memory may be a part of a larger one, all of which a library would take. */
function owned(bytes: Uint8Array): ArrayBuffer {
  return new Uint8Array(bytes).buffer;
}

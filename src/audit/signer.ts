import { createPrivateKey, createPublicKey, sign, verify } from "node:crypto";

/** RFC 8410: an ed25519 private key in PKCS#8, up to its 32 bytes. */
const PKCS8_PREFIX = Buffer.from("302e020100300506032b657004220420", "hex");

export type Signer = ReturnType<typeof createSigner>;

/** ed25519, so that others can check what the appliance signed without being able to sign. `seed` has 32 bytes. */
export function createSigner(seed: Uint8Array) {
  const privateKey = createPrivateKey({
    key: Buffer.concat([PKCS8_PREFIX, seed]),
    format: "der",
    type: "pkcs8",
  });
  const publicKey = createPublicKey(privateKey);
  return {
    /** As openssl reads it. */
    publicKeyPem: publicKey.export({ format: "pem", type: "spki" }),

    /** Base64. */
    sign: (text: string): string => sign(null, Buffer.from(text), privateKey).toString("base64"),

    verify: (text: string, signature: string): boolean =>
      verify(null, Buffer.from(text), publicKey, Buffer.from(signature, "base64")),
  };
}

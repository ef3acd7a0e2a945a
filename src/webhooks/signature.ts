import { createHmac, randomBytes } from "node:crypto";

const PREFIX = "whsec_";
const SECRET_BYTES = 32;

/** What is signed: the bytes that are sent, under the event's id. */
export interface Signable {
  readonly eventId: string;
  readonly type: string;
  readonly body: string;
  /** Seconds since 1970. */
  readonly timestamp: number;
}

/** Both schemes take it: one the whole text, the other what its base64 stands for. */
export function makeSigningSecret(): string {
  return PREFIX + randomBytes(SECRET_BYTES).toString("base64");
}

/**
 * The headers of one attempt, by each of the secrets. Standard Webhooks verifiers try all signatures of a header; the
 * SDK's verify_webhook looks at the last alone, so the order matters to who uses that.
 */
export function signedHeaders(
  { eventId, type, body, timestamp }: Signable,
  secrets: readonly string[],
): Record<string, string> {
  const trove = secrets.map((secret) => `v1=${hmac(secret, `${timestamp}.${body}`).digest("hex")}`);
  const standard = secrets.map((secret) => {
    const key = Buffer.from(secret.slice(PREFIX.length), "base64");
    return `v1,${hmac(key, `${eventId}.${timestamp}.${body}`).digest("base64")}`;
  });
  return {
    "content-type": "application/json",
    "x-trove-event": type,
    "x-trove-event-id": eventId,
    "x-trove-signature": [`t=${timestamp}`, ...trove].join(","),
    "webhook-id": eventId,
    "webhook-timestamp": String(timestamp),
    "webhook-signature": standard.join(" "),
  };
}

function hmac(key: string | Uint8Array, text: string) {
  return createHmac("sha256", key).update(text);
}

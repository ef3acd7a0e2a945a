import { createHash, timingSafeEqual } from "node:crypto";

/**
 * The tokens that a request shows: as models' clients do, as git does, and as a proxy is shown one. Of a header that is
 * there twice the parts come together, and are no token.
 */
export function shownTokens(headers: Headers): string[] {
  return [headers.get("x-api-key"), tokenOf(headers.get("authorization"))].filter((token) => token !== null);
}

/** Of an Authorization or Proxy-Authorization: a Bearer's, or the password of Basic. */
export function tokenOf(header: string | null): string | null {
  const [, scheme = "", value = ""] = /^(bearer|basic) +(\S+) *$/i.exec(header ?? "") ?? [];
  if (scheme === "") return null;
  if (scheme.toLowerCase() === "bearer") return value;
  const text = Buffer.from(value, "base64").toString("latin1");
  const colon = text.indexOf(":");
  return colon === -1 ? null : text.slice(colon + 1);
}

/**
 * Whether one of them is the token with this SHA-256. Hashes are compared, and all of them, so that how long it takes
 * says nothing of the token.
 */
export function isTokenAmong(shown: readonly string[], sha256: string): boolean {
  const right = Buffer.from(sha256, "hex");
  return shown
    .map((token) => timingSafeEqual(createHash("sha256").update(token).digest(), right))
    .includes(true);
}

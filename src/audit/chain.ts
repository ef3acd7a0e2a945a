import { timingSafeEqual } from "node:crypto";
import { canonicalJson, type Chain } from "./event.ts";

/** What the first event of a chain follows. */
export const GENESIS = "0".repeat(64);

/** The newest event of a chain: all before it hangs on its hash. */
export interface Head {
  readonly chain: Chain;
  readonly seq: number;
  readonly createdAt: number;
  readonly hash: string;
}

/** Each hash covers the one before, so that a changed, lost, added or moved row breaks all that follow. */
export function linkHash(previous: string, body: string): string {
  return new Bun.CryptoHasher("sha256").update(`${previous}\n${body}`).digest("hex");
}

export function headText({ chain, seq, createdAt, hash }: Head): string {
  return canonicalJson({ chain, created_at: createdAt, hash, seq });
}

/** The last event that retention removed: what is left follows it. */
export function checkpointText({ cutAt, ...last }: Head & { readonly cutAt: number }): string {
  const { chain, seq, createdAt, hash } = last;
  return canonicalJson({ chain, created_at: createdAt, cut_at: cutAt, hash, seq });
}

/** By a key that the database does not hold: who can write only there can't make a head for other rows. */
export function headMac(key: Uint8Array, head: Head): string {
  return new Bun.CryptoHasher("sha256", key).update(headText(head)).digest("hex");
}

export function isHeadMac(key: Uint8Array, head: Head, mac: string): boolean {
  return isSame(headMac(key, head), mac);
}

/** What a start makes an event of. */
export interface AnnouncedRow {
  readonly id: string;
  readonly namespaceId: string;
  readonly draft: string;
}

/** Without it, who can write to the database could have a start tell of what never was. */
export function intentMac(key: Uint8Array, { id, namespaceId, draft }: AnnouncedRow): string {
  return new Bun.CryptoHasher("sha256", key).update(JSON.stringify([id, namespaceId, draft])).digest("hex");
}

export function isIntentMac(key: Uint8Array, row: AnnouncedRow, mac: string): boolean {
  return isSame(intentMac(key, row), mac);
}

function isSame(expected: string, given: string): boolean {
  const [a, b] = [Buffer.from(expected), Buffer.from(given)];
  return a.length === b.length && timingSafeEqual(a, b);
}

import type { EventId, KeyId, WorkspaceId } from "../ids.ts";

/** A workspace's events, or those that belong to none. */
export type Chain = WorkspaceId | "appliance";

/** Clients may go by this. It changes when the meaning of a field does. */
const API_VERSION = "2026-11-26";

/** Who caused a change, and by which request. */
export interface Origin {
  readonly keyId: KeyId | null;
  /** Of an admin command: who ran it, as it said. */
  readonly localUser: string | null;
  readonly requestId: string | null;
  /** The client's. */
  readonly address: string | null;
}

/** The appliance itself. */
export const APPLIANCE: Origin = { keyId: null, localUser: null, requestId: null, address: null };

export type Json = string | number | boolean | null | readonly Json[] | { readonly [name: string]: Json };
export type EventData = Readonly<Record<string, Json>>;

/** What happened; the ledger gives it its place. */
export interface EventDraft {
  readonly chain: Chain;
  /** Of the form noun.happened; docs/events.md lists them. */
  readonly type: string;
  readonly namespace: string | null;
  readonly data: EventData;
  readonly origin: Origin;
  /** Given at the intent of a change on disk, so that it is the same whoever completes it. */
  readonly id?: EventId;
  /** A start completed it after a crash. */
  readonly settled?: boolean;
}

export interface StoredEvent {
  readonly chain: Chain;
  /** Microseconds since 1970; strictly increasing within the chain, so it is a cursor too. */
  readonly createdAt: number;
  /** 1, 2, 3 … within the chain. */
  readonly seq: number;
  readonly id: EventId;
  readonly type: string;
  readonly namespace: string | null;
  /** What clients get and the hash is over: canonical JSON. */
  readonly body: string;
}

/** UTC with microseconds and Z, always of one width: clients sort these as text. */
export function microTimestamp(microseconds: number): string {
  const ms = Math.floor(microseconds / 1000);
  const rest = String(microseconds % 1000).padStart(3, "0");
  return new Date(ms).toISOString().replace("Z", `${rest}Z`);
}

export function bodyOf(
  { chain, type, namespace, data, origin, settled }: EventDraft,
  place: { readonly id: EventId; readonly seq: number; readonly createdAt: number },
): string {
  return canonicalJson({
    actor_key_id: origin.keyId,
    actor_local_user: origin.localUser,
    api_version: API_VERSION,
    created_at: microTimestamp(place.createdAt),
    data,
    id: place.id,
    namespace,
    request_id: origin.requestId,
    seq: place.seq,
    source_address: origin.address,
    type,
    workspace_id: chain === "appliance" ? null : chain,
    ...(settled === true ? { settled: true } : {}),
  });
}

/** The last `"seq":` is the event's own: no later field is an object, and in a string the quotes are escaped. */
export function bodyWithoutSeq(body: string): string {
  const start = body.lastIndexOf('"seq":');
  return body.slice(0, start) + body.slice(body.indexOf(",", start) + 1);
}

/**
 * Names sorted, no white space, integers only, and nothing escaped that JSON need not: the same as Python's
 * json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).
 */
export function canonicalJson(value: Json): string {
  if (typeof value === "number" && !Number.isSafeInteger(value)) {
    throw new TypeError(`${value} has no canonical form here; record whole numbers`);
  }
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((one: Json) => canonicalJson(one)).join(",")}]`;
  const fields = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return `{${fields.map(([name, field]) => `${JSON.stringify(name)}:${canonicalJson(field)}`).join(",")}}`;
}

import type { PlainStatement } from "../db/transact.ts";
import { eventId } from "../ids.ts";
import { headMac, linkHash, type Head } from "./chain.ts";
import { bodyOf, type Chain, type EventDraft, type StoredEvent } from "./event.ts";

/** One statement of a change, as drizzle builds it or by hand. */
export type Statement = PlainStatement | { toSQL(): { sql: string; params: unknown[] } };

const INSERT_EVENT =
  "INSERT INTO events (chain, created_at, seq, id, type, namespace, body, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
const PUT_HEAD = `INSERT INTO heads (chain, seq, created_at, hash, mac) VALUES (?, ?, ?, ?, ?)
  ON CONFLICT (chain) DO UPDATE SET seq = excluded.seq, created_at = excluded.created_at, hash = excluded.hash, mac = excluded.mac`;

interface Member {
  readonly statements: readonly Statement[];
  readonly events: readonly EventDraft[];
}

export interface TransactionParts {
  /** Of the heads' MACs. */
  readonly key: Uint8Array;
  readonly headOf: (chain: Chain) => Head;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export interface Transaction {
  readonly statements: readonly PlainStatement[];
  /** Each member's events. */
  readonly stored: readonly StoredEvent[][];
  /** Where the chains are once it is made. */
  readonly moved: ReadonlyMap<Chain, Head>;
}

/** The changes of several members with their events, linked into their chains, and the new heads. */
export function transactionOf(members: readonly Member[], parts: TransactionParts): Transaction {
  const moved = new Map<Chain, Head>();
  const statements: PlainStatement[] = [];
  const stored = members.map((member) => {
    for (const statement of member.statements) statements.push(plainStatement(statement));
    return member.events.map((draft) => {
      const { event, hash } = place(draft, moved.get(draft.chain) ?? parts.headOf(draft.chain), parts.now);
      const { chain, createdAt, seq, id, type, namespace, body } = event;
      statements.push({ sql: INSERT_EVENT, args: [chain, createdAt, seq, id, type, namespace, body, hash] });
      moved.set(chain, { chain, seq, createdAt, hash });
      return event;
    });
  });
  for (const head of moved.values()) {
    const { chain, seq, createdAt, hash } = head;
    statements.push({ sql: PUT_HEAD, args: [chain, seq, createdAt, hash, headMac(parts.key, head)] });
  }
  return { statements, stored, moved };
}

function place(draft: EventDraft, before: Head, now: () => number): { event: StoredEvent; hash: string } {
  const at = {
    id: draft.id ?? eventId.make(),
    seq: before.seq + 1,
    // Also when the clock was set back.
    createdAt: Math.max(Math.round(now() * 1000), before.createdAt + 1),
  };
  const body = bodyOf(draft, at);
  const { chain, type, namespace } = draft;
  return { event: { chain, type, namespace, body, ...at }, hash: linkHash(before.hash, body) };
}

function plainStatement(statement: Statement): PlainStatement {
  if (!("toSQL" in statement)) return statement;
  const { sql, params } = statement.toSQL();
  return { sql, args: params as PlainStatement["args"] };
}

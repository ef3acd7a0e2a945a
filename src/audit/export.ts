import { and, asc, eq, gt, lte } from "drizzle-orm";
import type { Database } from "../db/open.ts";
import { checkpoints, events } from "../db/schema.ts";
import { checkpointText, headText, type Head } from "./chain.ts";
import type { Chain } from "./event.ts";
import type { Signer } from "./signer.ts";

const PAGE = 500;

export interface ExportParts {
  readonly db: Pick<Database, "select">;
  readonly signer: Pick<Signer, "sign">;
  readonly chain: Chain;
  /** Up to which event: the newest of the chain. */
  readonly head: Head;
}

/**
 * One chain as lines of JSON that can be verified with nothing but SHA-256 and the appliance's public key: where it
 * begins, each event with its hash, and where it ends, signed.
 */
export async function* exportChain({ db, signer, chain, head }: ExportParts): AsyncGenerator<string> {
  const [checkpoint] = await db.select().from(checkpoints).where(eq(checkpoints.chain, chain));
  const signed = (text: string, signature: string) => `{"signature":"${signature}","signed":${text}}`;
  yield checkpoint === undefined
    ? `{"begin":null}\n`
    : `{"begin":${signed(checkpointText(checkpoint), checkpoint.signature)}}\n`;
  let after = checkpoint?.createdAt ?? 0;
  for (;;) {
    const rows = await db
      .select({ createdAt: events.createdAt, body: events.body, hash: events.hash })
      .from(events)
      .where(and(eq(events.chain, chain), gt(events.createdAt, after), lte(events.createdAt, head.createdAt)))
      .orderBy(asc(events.createdAt))
      .limit(PAGE);
    if (rows.length > 0) yield rows.map(({ body, hash }) => `{"event":${body},"hash":"${hash}"}\n`).join("");
    after = rows.at(-1)?.createdAt ?? after;
    if (rows.length < PAGE) break;
  }
  const text = headText(head);
  yield `{"end":${signed(text, signer.sign(text))}}\n`;
}

import { Elysia } from "elysia";
import { exportChain } from "../../audit/export.ts";
import type { Chain } from "../../audit/event.ts";
import type { Ledger } from "../../audit/ledger.ts";
import type { Signer } from "../../audit/signer.ts";
import { verifyAudit, type AuditReport } from "../../audit/verify.ts";
import type { Database } from "../../db/open.ts";
import { AppError } from "../../errors.ts";
import { workspaceId } from "../../ids.ts";
import type { Access } from "../auth.ts";

export interface AuditRoutesParts {
  readonly access: Access;
  readonly db: Database;
  readonly ledger: Pick<Ledger, "head" | "chains" | "durable">;
  readonly headKey: Uint8Array;
  readonly signer: Signer;
}

/** Proof of the audit log, for the operator. Reading it is src/api/events/events.ts's. */
export function auditRoutes({ access, db, ledger, headKey, signer }: AuditRoutesParts) {
  return new Elysia({ prefix: "/admin/audit" })
    .resolve(async ({ request }) => {
      await access.operatorOnly(request);
    })
    .get("/key", () => ({ public_key: signer.publicKeyPem }))
    .get("/verify", async ({ query }): Promise<AuditReport> => {
      const only = query["chain"] === undefined ? undefined : chainOf(query["chain"]);
      await ledger.durable();
      return verifyAudit({ db, headKey, signer, remembered: ledger.head, chains: ledger.chains, only });
    })
    .get("/export", async ({ query }) => {
      const chain = chainOf(query["chain"]);
      await ledger.durable();
      const head = ledger.head(chain);
      if (head === null) throw new AppError("not_found", `There are no events of ${chain}.`);
      const lines = exportChain({ db, signer, chain, head });
      return new Response(streamOf(lines), { headers: { "content-type": "application/x-ndjson" } });
    });
}

/** "appliance", or a workspace's id. */
function chainOf(text: string | undefined): Chain {
  if (text === "appliance") return text;
  const id = workspaceId.schema.safeParse(text);
  if (id.success) return id.data;
  throw new AppError("bad_input", "Name the workspace by its id, or appliance: ?chain=ws-…");
}

/** Read from the database as the client takes it. */
function streamOf(lines: AsyncGenerator<string>): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream(
    {
      async pull(controller) {
        const { done, value } = await lines.next();
        if (done === true) controller.close();
        else controller.enqueue(encoder.encode(value));
      },
      cancel: () => void lines.return(undefined),
    },
    { highWaterMark: 0 },
  );
}

import { Elysia } from "elysia";
import type { z } from "zod";
import type { Ledger } from "../../audit/ledger.ts";
import type { Config } from "../../config/schema.ts";
import { runId } from "../../ids.ts";
import type { runOnRecord } from "../../protocol/evidence.ts";
import { runMake } from "../../protocol/sandboxd.ts";
import { receiptSchema, type ReceiptSigner } from "../../runs/receipt.ts";
import type { RunRows } from "../../runs/rows.ts";
import { accountOf, grantsOf, isOver, limitsOf, networkOf, noRun, specOf } from "../../runs/run.ts";
import type { Access } from "../auth.ts";
import { timestamp } from "../http/time.ts";

interface EvidenceRoutesParts {
  readonly access: Access;
  readonly rows: Pick<RunRows, "find">;
  readonly ledger: Pick<Ledger, "append">;
  readonly key: ReceiptSigner["key"];
  readonly config: () => Config["runs"];
}

/** What `cofferdam evidence` asks before it looks at a run. Looking goes into the sandbox, so the tenant's events say so. */
export function evidenceRoutes({ access, rows, ledger, key, config }: EvidenceRoutesParts) {
  return new Elysia().post(
    "/admin/runs/:id/evidence",
    async ({ request, params }): Promise<z.infer<typeof runOnRecord>> => {
      await access.operatorOnly(request);
      const id = runId.schema.safeParse(params.id);
      const run = id.success ? await rows.find(id.data) : null;
      if (run === null) throw noRun(params.id);
      const { workspaceId, namespace } = run;
      const event = { chain: workspaceId, type: "run.examined", namespace, origin: access.origin(request) };
      await ledger.append([{ ...event, data: { run_id: run.id } }]);
      return {
        run_id: run.id,
        workspace_id: workspaceId,
        namespace,
        status: run.status,
        over: isOver(run),
        exit_code: run.exitCode,
        error: run.error,
        created_at: timestamp(run.createdAt),
        started_at: run.startedAt === null ? null : timestamp(run.startedAt),
        finished_at: run.finishedAt === null ? null : timestamp(run.finishedAt),
        env: specOf(run).env,
        grants: grantsOf(run),
        used: accountOf(run).usage,
        limits: limitsOf(run),
        sandbox: runMake.nullable().parse(run.madeOf),
        network: networkOf(run),
        receipt: receiptSchema.nullable().parse(run.receipt),
        config: config(),
        key,
      };
    },
    { parse: "none" },
  );
}

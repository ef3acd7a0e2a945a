import { Elysia } from "elysia";
import { AppError } from "../errors.ts";
import { receiptSchema, type ReceiptSigner } from "../runs/receipt.ts";
import { isOver } from "../runs/run.ts";
import type { Access } from "./auth.ts";
import type { RunCalls } from "./run-call.ts";

export interface ReceiptRoutesParts {
  readonly access: Access;
  readonly calls: RunCalls;
  readonly key: ReceiptSigner["key"];
}

/** What the appliance attests of runs, and the key that it does so with. */
export function receiptRoutes({ access, calls, key }: ReceiptRoutesParts) {
  return new Elysia()
    .get("/v1/appliance/key", async ({ request }) => {
      await access.anyone(request);
      return key;
    })
    .get("/v1/runs/:id/receipt", async ({ request, params }) => {
      const { run } = await calls.of(request, params.id);
      if (!isOver(run))
        throw new AppError("conflict", "The run is not over; its receipt is made at its end.");
      const receipt = receiptSchema.nullable().parse(run.receipt);
      if (receipt !== null) return receipt;
      throw new AppError("not_found", "The run has no receipt; the appliance's log says why.");
    });
}

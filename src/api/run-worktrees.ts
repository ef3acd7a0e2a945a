import { Elysia } from "elysia";
import { z } from "zod";
import { MergeConflict } from "../runs/worktree/merge.ts";
import type { Worktrees } from "../runs/worktree/worktrees.ts";
import { readJson } from "./http/body.ts";
import type { RunCalls } from "./run-call.ts";

const mergeBody = z.strictObject({ on_conflict: z.enum(["fail", "run", "namespace"]).default("fail") });

export interface RunWorktreeRoutesParts {
  readonly calls: RunCalls;
  readonly worktrees: Pick<Worktrees, "diff" | "merge" | "discard">;
}

/** What becomes of a run's work. */
export function runWorktreeRoutes({ calls, worktrees }: RunWorktreeRoutesParts) {
  return new Elysia({ prefix: "/v1/runs" })
    .get("/:id/diff", async ({ request, params }) => {
      const call = await calls.of(request, params.id);
      return call.hold(async ({ signal }) => worktrees.diff(call.run.id, signal));
    })
    .post(
      "/:id/merge",
      async ({ request, params }) => {
        const call = await calls.of(request, params.id);
        const { on_conflict } = await optionalBody(request);
        return call.hold(async () => {
          try {
            const { files, resolved, skipped } = await worktrees.merge(call.run.id, call, on_conflict);
            return { merged: true, files, conflicts: [], resolved, skipped };
          } catch (error) {
            if (!(error instanceof MergeConflict)) throw error;
            const { message: detail, conflicts, truncated } = error;
            return Response.json({ detail, merged: false, conflicts, truncated }, { status: 409 });
          }
        });
      },
      { parse: "none" },
    )
    .post(
      "/:id/discard",
      async ({ request, params }) => {
        const call = await calls.of(request, params.id);
        return call.hold(async () => {
          await worktrees.discard(call.run.id, call);
          return { discarded: call.run.id };
        });
      },
      { parse: "none" },
    );
}

async function optionalBody(request: Request): Promise<z.infer<typeof mergeBody>> {
  const empty = request.body === null || request.headers.get("content-length") === "0";
  return empty ? mergeBody.parse({}) : readJson(request, mergeBody);
}

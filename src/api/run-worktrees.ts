import { Elysia } from "elysia";
import type { Worktrees } from "../runs/worktree/worktrees.ts";
import type { RunCalls } from "./run-call.ts";

export interface RunWorktreeRoutesParts {
  readonly calls: RunCalls;
  readonly worktrees: Pick<Worktrees, "diff" | "discard">;
}

/** What becomes of a run's work. */
export function runWorktreeRoutes({ calls, worktrees }: RunWorktreeRoutesParts) {
  return new Elysia({ prefix: "/v1/runs" })
    .get("/:id/diff", async ({ request, params }) => {
      const call = await calls.of(request, params.id);
      return call.hold(async ({ signal }) => worktrees.diff(call.run.id, signal));
    })
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

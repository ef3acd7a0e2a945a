import { Elysia } from "elysia";
import type { Readiness } from "./readiness.ts";

interface HealthRoutesParts {
  readonly ready: Readiness;
  /** null: for strangers. */
  readonly detailed: (() => { readonly notices: readonly string[] }) | null;
}

/**
 * For load balancers and supervisors. Without a key, and so they tell strangers no more than that calls are answered and
 * the names of what is amiss; `detailed` tells the rest, on the admin socket, with what works but not as it should.
 */
export function healthRoutes({ ready, detailed }: HealthRoutesParts) {
  return new Elysia()
    .get("/healthz", () => ({ status: "ok" }))
    .get("/readyz", async () => {
      const reasons = await ready();
      if (reasons.length === 0) return detailed === null ? { ready: true } : { ready: true, ...detailed() };
      const shown = reasons.map(({ name, detail }) => (detailed === null ? name : `${name}: ${detail}`));
      return Response.json(
        { ready: false, reasons: shown, detail: `Not ready: ${shown.join("; ")}` },
        { status: 503, headers: { "retry-after": "5" } },
      );
    });
}

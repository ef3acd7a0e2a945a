import { Elysia } from "elysia";
import type { Readiness } from "./readiness.ts";

/**
 * For load balancers and supervisors. Without a key, and so they tell strangers no more than that calls are answered and
 * the names of what is amiss; `detailed` tells the rest, on the admin socket.
 */
export function healthRoutes({ ready, detailed }: { readonly ready: Readiness; readonly detailed: boolean }) {
  return new Elysia()
    .get("/healthz", () => ({ status: "ok" }))
    .get("/readyz", async () => {
      const reasons = await ready();
      if (reasons.length === 0) return { ready: true };
      const shown = reasons.map(({ name, detail }) => (detailed ? `${name}: ${detail}` : name));
      return Response.json(
        { ready: false, reasons: shown, detail: `Not ready: ${shown.join("; ")}` },
        { status: 503, headers: { "retry-after": "5" } },
      );
    });
}

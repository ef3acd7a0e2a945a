import { Elysia } from "elysia";

/** For load balancers and supervisors: it needs no key and tells nothing but that calls are answered. */
export function healthRoutes() {
  return new Elysia().get("/healthz", () => ({ status: "ok" }));
}

import { Elysia } from "elysia";
import type { Access } from "./auth.ts";

export interface MetricsPage {
  render(): Promise<string>;
  readonly contentType: string;
}

/** For Prometheus by way of the admin socket: they tell how busy the host is, which is the operator's. */
export function metricsRoutes({ access, page }: { readonly access: Access; readonly page: MetricsPage }) {
  return new Elysia().get("/metrics", async ({ request }) => {
    await access.operatorOnly(request);
    return answer(page);
  });
}

/** The same for a Prometheus that can't ask a unix socket: a port of this host, and nothing but this on it. */
export function openMetricsPort(endpoint: { hostname: string; port: number }, page: MetricsPage) {
  return Bun.serve({
    ...endpoint,
    development: false,
    reusePort: false,
    routes: { "/metrics": { GET: () => answer(page) } },
    fetch: () => Response.json({ detail: "There is nothing here but GET /metrics." }, { status: 404 }),
  });
}

async function answer({ render, contentType }: MetricsPage): Promise<Response> {
  return new Response(await render(), { headers: { "content-type": contentType } });
}

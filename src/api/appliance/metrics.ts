import { Elysia } from "elysia";
import { hostAndPort, type Endpoint } from "../../config/listen.ts";
import { AppError } from "../../errors.ts";
import type { Access } from "../auth.ts";
import { errorResponse } from "../http/errors.ts";
import { bind, type BunServer } from "../http/listener.ts";

export interface MetricsPage {
  readonly render: () => Promise<string>;
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
export function openMetricsPort(endpoint: Endpoint, page: MetricsPage): BunServer {
  return bind(`the address ${hostAndPort(endpoint)}`, () =>
    Bun.serve({
      ...endpoint,
      development: false,
      reusePort: false,
      routes: { "/metrics": { GET: () => answer(page) } },
      fetch: () => errorResponse(new AppError("not_found", "There is nothing here but GET /metrics.")),
    }),
  );
}

async function answer({ render, contentType }: MetricsPage): Promise<Response> {
  return new Response(await render(), { headers: { "content-type": contentType } });
}

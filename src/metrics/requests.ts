import { Counter, Histogram, type Registry } from "prom-client";

const METHODS: ReadonlySet<string> = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);
const LABELS = ["route", "method", "status"] as const;

/** Requests by route, method and class of status, counted and timed. What nobody knows as a method is `other`. */
export function createRequestTimes(registry: Registry, bounds: readonly number[]) {
  const registers = [registry];
  const times = new Histogram({
    name: "cofferdam_http_request_duration_seconds",
    help: "Time from a request's head to the beginning of its answer.",
    labelNames: LABELS,
    buckets: [...bounds],
    registers,
  });
  const requests = new Counter({
    name: "cofferdam_http_requests_total",
    help: "Requests that were answered.",
    labelNames: LABELS,
    registers,
  });

  return (route: string | null, method: string, status: number, seconds: number): void => {
    const labels = {
      route: route ?? "none",
      method: METHODS.has(method) ? method : "other",
      status: `${Math.floor(status / 100)}xx`,
    };
    times.observe(labels, seconds);
    requests.inc(labels);
  };
}

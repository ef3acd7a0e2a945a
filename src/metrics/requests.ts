import { Counter, type Histogram, type Registry } from "prom-client";

interface Series {
  readonly labels: { readonly route: string; readonly method: string; readonly status: string };
  /** By bucket, each without those below it; the last is for what is over all bounds. */
  readonly counts: Float64Array;
  sum: number;
}

const NAME = "cofferdam_http_request_duration_seconds";
const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"] as const;
const CLASSES = 6;

/**
 * Requests by route, method and class of status, counted and timed. prom-client's own histogram makes and hashes its
 * labels anew for each request, which takes a microsecond of the ten that a small one has; this finds its series by the
 * route, and puts labels to it when somebody asks.
 */
export function createRequestTimes(registry: Registry, bounds: readonly number[]) {
  const routes = new Map<string | null, (Series | undefined)[]>();

  function seriesOf(route: string | null, method: string, status: number): Series {
    const found = METHODS.indexOf(method as "GET");
    const at = found === -1 ? METHODS.length - 1 : found;
    const group = Math.floor(status / 100);
    let all = routes.get(route);
    if (all === undefined) {
      all = Array.from({ length: METHODS.length * CLASSES });
      routes.set(route, all);
    }
    return (all[at * CLASSES + group] ??= {
      labels: { route: route ?? "none", method: METHODS[at] ?? "other", status: `${group}xx` },
      counts: new Float64Array(bounds.length + 1),
      sum: 0,
    });
  }

  function* all(): Generator<Series> {
    for (const series of routes.values()) for (const one of series) if (one !== undefined) yield one;
  }

  const histogram = {
    name: NAME,
    help: "Time from a request's head to the beginning of its answer.",
    type: "histogram",
    get: async () => ({ ...histogram, values: [...all()].flatMap((series) => samples(series, bounds)) }),
  };
  // All that a registry asks of a metric.
  registry.registerMetric(histogram as unknown as Histogram);

  // It registers itself.
  // oxlint-disable-next-line no-new
  new Counter({
    name: "cofferdam_http_requests_total",
    help: "Requests that were answered.",
    labelNames: ["route", "method", "status"] as const,
    registers: [registry],
    collect() {
      this.reset();
      for (const { labels, counts } of all()) this.inc(labels, countOf(counts));
    },
  });

  return (route: string | null, method: string, status: number, seconds: number): void => {
    const series = seriesOf(route, method, status);
    let bucket = 0;
    while (bucket < bounds.length && seconds > (bounds[bucket] ?? 0)) bucket += 1;
    series.counts[bucket] = (series.counts[bucket] ?? 0) + 1;
    series.sum += seconds;
  };
}

function countOf(counts: Float64Array): number {
  return counts.reduce((sum, count) => sum + count, 0);
}

function samples({ labels, counts, sum }: Series, bounds: readonly number[]) {
  let below = 0;
  const buckets = [...counts].map((count, at) => ({
    metricName: `${NAME}_bucket`,
    labels: { le: bounds[at] ?? "+Inf", ...labels },
    value: (below += count),
  }));
  return [
    ...buckets,
    { metricName: `${NAME}_sum`, labels, value: sum },
    { metricName: `${NAME}_count`, labels, value: below },
  ];
}

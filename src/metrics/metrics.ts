import { Gauge, Registry } from "prom-client";
import { buildInfo } from "../version.ts";
import { createMeters, measureLag, type Meters } from "./meters.ts";
import { createReadings, type Reading } from "./readings.ts";

export interface Metrics {
  readonly meters: Meters;
  /** All of them, in Prometheus's text format. */
  render(reading: Reading): Promise<string>;
  readonly contentType: string;
  stop(): void;
}

/** What Prometheus is told. No label holds anything that a tenant named. */
export function createMetrics(): Metrics {
  const registry = new Registry();
  const build = new Gauge({
    name: "cofferdam_build_info",
    help: "1, with the version as a label.",
    labelNames: ["version", "commit", "bun"] as const,
    registers: [registry],
  });
  build.set({ ...buildInfo, commit: buildInfo.commit ?? "none" }, 1);
  const started = new Gauge({
    name: "cofferdam_process_start_time_seconds",
    help: "When the api process started.",
    registers: [registry],
  });
  started.set(Math.round(performance.timeOrigin) / 1000);
  const put = createReadings(registry);
  return {
    meters: createMeters(registry),
    render(reading) {
      put(reading);
      return registry.metrics();
    },
    contentType: registry.contentType,
    stop: measureLag(registry),
  };
}

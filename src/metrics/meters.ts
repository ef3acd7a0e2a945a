import { Counter, Histogram, type Registry } from "prom-client";
import type { ExecMeter } from "../sandbox/meter.ts";
import type { RunMeter } from "../runs/meter.ts";
import type { DeliveryMeter } from "../webhooks/meter.ts";
import { createRequestTimes } from "./requests.ts";

/** What is measured as it happens; the rest is read when somebody asks. */
export interface Meters extends ExecMeter, DeliveryMeter {
  readonly runs: RunMeter;
  /** `route` is a pattern, or null where there is none: only what the appliance names itself becomes a label. */
  answered(route: string | null, method: string, status: number, seconds: number): void;
}

/** From a look-up to a command that takes its whole wall clock. */
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
/** Up to the last of a delivery's retries. */
const DELAY_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86_400];
/** Up to a long wait for a place. */
const RUN_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600];
const LAG_SECONDS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];
const LAG_EVERY_MS = 500;

export function createMeters(registry: Registry): Meters {
  const registers = [registry];
  const timed = createRequestTimes(registry, SECONDS);
  const refusals = new Counter({
    name: "cofferdam_http_refusals_total",
    help: "Requests answered with an error, by its exact status.",
    labelNames: ["status"] as const,
    registers,
  });
  const execs = new Counter({
    name: "cofferdam_execs_total",
    help: "Commands, by how they ended; refused ones never ran.",
    labelNames: ["outcome"] as const,
    registers,
  });
  const execSeconds = new Histogram({
    name: "cofferdam_exec_duration_seconds",
    help: "Time that commands ran, without waiting for a turn or a sandbox.",
    buckets: SECONDS,
    registers,
  });
  const waitSeconds = new Histogram({
    name: "cofferdam_exec_wait_seconds",
    help: "Time that commands waited for their turn.",
    buckets: SECONDS,
    registers,
  });
  const sandboxSeconds = new Histogram({
    name: "cofferdam_sandbox_start_seconds",
    help: "Time until a namespace without a warm sandbox had one, by where that came from.",
    labelNames: ["source"] as const,
    buckets: SECONDS,
    registers,
  });
  const attempts = new Counter({
    name: "cofferdam_webhook_attempts_total",
    help: "Attempts to deliver to a webhook; dead ones were the last of their delivery.",
    labelNames: ["result"] as const,
    registers,
  });
  const deliverySeconds = new Histogram({
    name: "cofferdam_webhook_delivery_delay_seconds",
    help: "Time from an event to its delivery.",
    buckets: DELAY_SECONDS,
    registers,
  });

  const runs = new Counter({
    name: "cofferdam_runs_total",
    help: "Runs that are over, by their status.",
    labelNames: ["status"] as const,
    registers,
  });
  const runSeconds = new Histogram({
    name: "cofferdam_run_start_seconds",
    help: "Time from a run's request to the start of its command, by where its sandbox came from.",
    labelNames: ["source"] as const,
    buckets: RUN_SECONDS,
    registers,
  });

  return {
    runs: {
      begun: (source, seconds) => runSeconds.observe({ source }, seconds),
      ended: (status) => runs.inc({ status }),
    },
    answered(route, method, status, seconds) {
      timed(route, method, status, seconds);
      if (status >= 400) refusals.inc({ status });
    },
    waited: (seconds) => waitSeconds.observe(seconds),
    opened: (source, seconds) => sandboxSeconds.observe({ source }, seconds),
    ended(outcome, seconds) {
      execs.inc({ outcome });
      if (seconds !== null) execSeconds.observe(seconds);
    },
    attempted(result, sinceEventMs) {
      attempts.inc({ result });
      if (result === "delivered") deliverySeconds.observe(Math.max(0, sinceEventMs) / 1000);
    },
  };
}

/** How late timers come: what a call has to wait for others on the one thread. Returns how to end it. */
export function measureLag(registry: Registry): () => void {
  const lag = new Histogram({
    name: "cofferdam_event_loop_lag_seconds",
    help: "How much later than asked a timer came.",
    buckets: LAG_SECONDS,
    registers: [registry],
  });
  let due = performance.now() + LAG_EVERY_MS;
  const timer = setInterval(() => {
    const now = performance.now();
    lag.observe(Math.max(0, now - due) / 1000);
    due = now + LAG_EVERY_MS;
  }, LAG_EVERY_MS);
  return () => clearInterval(timer);
}

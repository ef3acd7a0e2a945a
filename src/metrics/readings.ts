import { Counter, Gauge, type Registry } from "prom-client";
import type { Ledger } from "../audit/ledger.ts";
import type { GatewayStatus } from "../protocol/gateway.ts";
import type { ProofState } from "../runs/proofs.ts";
import type { OperationResult } from "../protocol/sandboxd.ts";
import type { Runs } from "../runs/runs.ts";
import type { Exec } from "../sandbox/exec.ts";

/** What is read each time that somebody asks. */
export interface Reading {
  readonly ready: boolean;
  readonly exec: ReturnType<Exec["stats"]>;
  readonly runs: ReturnType<Runs["stats"]>;
  /** null while sandboxd does not answer. */
  readonly sandboxd: Pick<OperationResult<"status">, "pool" | "sandboxes" | "memory_available_bytes"> | null;
  /** Likewise. */
  readonly gateway: Pick<GatewayStatus, "runs" | "requests" | "tunnels"> | null;
  readonly proof: ProofState;
  readonly audit: ReturnType<Ledger["stats"]>;
  readonly webhooks: { readonly endpoints: number; readonly inFlight: number; readonly overdueMs: number };
  readonly disk: {
    readonly availableBytes: number;
    readonly totalBytes: number;
    readonly totalFiles: number;
    readonly freeFiles: number;
    readonly floorBytes: number;
  };
  readonly logLinesLost: number;
  readonly memoryBytes: number;
  readonly cpuSeconds: number;
}

/** One number of a reading; null when there is none now. */
interface Measure {
  readonly name: string;
  readonly help: string;
  readonly read: (reading: Reading) => number | null;
}

const GAUGES: readonly Measure[] = [
  { name: "ready", help: "1 when /readyz says so.", read: ({ ready }) => Number(ready) },
  { name: "exec_running", help: "Commands that run.", read: ({ exec }) => exec.running },
  { name: "exec_waiting", help: "Commands that wait for their turn.", read: ({ exec }) => exec.waiting },
  { name: "runs_live", help: "Runs that live, or are being started.", read: ({ runs }) => runs.live },
  { name: "runs_waiting", help: "Runs that wait for their turn.", read: ({ runs }) => runs.waiting },
  { name: "runs_spare", help: "Booted sandboxes that wait for a run.", read: ({ runs }) => runs.spare },
  {
    name: "proof_passed",
    help: "1 when the newest proof of the walls passed, 0 when it failed.",
    read: ({ proof }) => (proof.at === null ? null : Number(proof.passed)),
  },
  {
    name: "proof_failed_claims",
    help: "Claims of the newest proof that do not hold.",
    read: ({ proof }) => (proof.at === null ? null : proof.failed.length),
  },
  {
    name: "proof_timestamp_seconds",
    help: "When the newest proof began.",
    read: ({ proof }) => (proof.at === null ? null : proof.at / 1000),
  },
  {
    name: "proof_closes_admission",
    help: "1 while no run begins because a proof failed.",
    read: ({ proof }) => Number(!proof.passed && proof.override === null),
  },
  {
    name: "sandboxes_warm",
    help: "Sandboxes kept for the namespace they have.",
    read: ({ exec }) => exec.warm,
  },
  {
    name: "sandboxes",
    help: "Sandboxes on the host, the pool's among them.",
    read: ({ sandboxd }) => sandboxd?.sandboxes.length ?? null,
  },
  {
    name: "sandbox_pool_target",
    help: "Booted sandboxes that should wait for a namespace.",
    read: ({ sandboxd }) => sandboxd?.pool.target ?? null,
  },
  {
    name: "sandbox_pool_ready",
    help: "Booted sandboxes that do wait.",
    read: ({ sandboxd }) => sandboxd?.pool.ready ?? null,
  },
  {
    name: "sandbox_pool_booting",
    help: "Sandboxes that are being booted for the pool.",
    read: ({ sandboxd }) => sandboxd?.pool.booting ?? null,
  },
  {
    name: "host_memory_available_bytes",
    help: "Memory that the host can use without swapping.",
    read: ({ sandboxd }) => sandboxd?.memory_available_bytes ?? null,
  },
  {
    name: "sandboxd_up",
    help: "1 when sandboxd answers.",
    read: ({ sandboxd }) => Number(sandboxd !== null),
  },
  {
    name: "gateway_up",
    help: "1 when the gateway answers.",
    read: ({ gateway }) => Number(gateway !== null),
  },
  { name: "gateway_runs", help: "Runs that are let in.", read: ({ gateway }) => gateway?.runs ?? null },
  {
    name: "gateway_requests",
    help: "Runs' requests to models and git that are under way.",
    read: ({ gateway }) => gateway?.requests ?? null,
  },
  {
    name: "gateway_tunnels",
    help: "Runs' connections to hosts of the web.",
    read: ({ gateway }) => gateway?.tunnels ?? null,
  },
  {
    name: "audit_waiting",
    help: "Changes that wait to be written with their events.",
    read: ({ audit }) => audit.waiting,
  },
  {
    name: "audit_chains",
    help: "Hash chains: the appliance's, and one for each workspace that has events.",
    read: ({ audit }) => audit.chains,
  },
  {
    name: "audit_appliance_seq",
    help: "The number of the newest event in the appliance's own chain.",
    read: ({ audit }) => audit.applianceSeq,
  },
  {
    name: "audit_last_event_timestamp_seconds",
    help: "When the newest event of all chains was written.",
    read: ({ audit }) => audit.newestAt / 1e6,
  },
  { name: "webhooks", help: "Enabled webhooks.", read: ({ webhooks }) => webhooks.endpoints },
  {
    name: "webhook_attempts_in_flight",
    help: "Attempts to deliver that are under way.",
    read: ({ webhooks }) => webhooks.inFlight,
  },
  {
    name: "webhook_overdue_seconds",
    help: "How long the delivery that is longest overdue has been so.",
    read: ({ webhooks }) => webhooks.overdueMs / 1000,
  },
  {
    name: "disk_free_bytes",
    help: "Free on the data directory's disk.",
    read: ({ disk }) => disk.availableBytes,
  },
  { name: "disk_size_bytes", help: "The size of that disk.", read: ({ disk }) => disk.totalBytes },
  {
    name: "disk_floor_bytes",
    help: "Writes stop with 507 when less is free.",
    read: ({ disk }) => disk.floorBytes,
  },
  {
    name: "process_resident_memory_bytes",
    help: "Memory of the api process.",
    read: ({ memoryBytes }) => memoryBytes,
  },
];

const COUNTERS: readonly Measure[] = [
  {
    name: "audit_events_total",
    help: "Events written since the api process started.",
    read: ({ audit }) => audit.events,
  },
  {
    name: "audit_commits_total",
    help: "Transactions that they took: events per commit is the size of a group.",
    read: ({ audit }) => audit.commits,
  },
  {
    name: "log_lines_lost_total",
    help: "Log lines that nobody read in time.",
    read: ({ logLinesLost }) => logLinesLost,
  },
  {
    name: "process_cpu_seconds_total",
    help: "Processor time of the api process.",
    read: ({ cpuSeconds }) => cpuSeconds,
  },
];

/** Returns what puts a reading into the registry. */
export function createReadings(registry: Registry): (reading: Reading) => void {
  const registers = [registry];
  const gauges = GAUGES.map(({ name, help, read }) => ({
    read,
    metric: new Gauge({ name: `cofferdam_${name}`, help, registers }),
  }));
  const counters = COUNTERS.map(({ name, help, read }) => ({
    read,
    metric: new Counter({ name: `cofferdam_${name}`, help, registers }),
  }));
  return (reading) => {
    for (const { metric, read } of gauges) {
      const value = read(reading);
      if (value === null) metric.remove();
      else metric.set(value);
    }
    for (const { metric, read } of counters) {
      metric.reset();
      metric.inc(read(reading) ?? 0);
    }
  };
}

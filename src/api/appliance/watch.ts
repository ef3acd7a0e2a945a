import type { Ledger } from "../../audit/ledger.ts";
import { AppError } from "../../errors.ts";
import { isBelowFloor } from "../../kernel/statfs.ts";
import type { LineWriter } from "../../kernel/stderr.ts";
import type { Log } from "../../log.ts";
import type { Metrics } from "../../metrics/metrics.ts";
import type { Reading } from "../../metrics/readings.ts";
import type { GatewayStatus } from "../../protocol/gateway.ts";
import type { OperationResult } from "../../protocol/sandboxd.ts";
import { createAccessLog, type Answered } from "../http/access-log.ts";
import type { MetricsPage } from "./metrics.ts";
import { createReadiness, type Readiness } from "./readiness.ts";
import { createRecent } from "./recent.ts";

export interface WatchParts {
  readonly log: Log;
  readonly stderr: LineWriter;
  readonly metrics: Metrics;
  readonly ledger: Pick<Ledger, "durable" | "stats">;
  /** Throws when the database does not answer. */
  readonly askDatabase: () => Promise<unknown>;
  /** Throws when the blob store does not answer. */
  readonly askStore: () => Promise<void>;
  readonly askSandboxd: () => Promise<OperationResult<"status">>;
  readonly askGateway: () => Promise<GatewayStatus>;
  readonly execStats: () => Reading["exec"];
  readonly runStats: () => Reading["runs"];
  readonly proofState: () => Reading["proof"];
  readonly webhookStats: () => Reading["webhooks"];
  readonly disk: () => Reading["disk"];
}

export interface Watch {
  readonly onAnswered: Answered;
  readonly ready: Readiness;
  readonly page: MetricsPage;
}

const MIB = 1024 * 1024;
/** Of those who ask about the whole appliance, however many they are. */
const MAX_AGE_MS = 1000;
/** A scrape has to end well within Prometheus's own 10 s. */
const PATIENCE_MS = 3000;

/** What is told to those who watch the appliance: its log, whether it is ready, its metrics. */
export function createWatch(parts: WatchParts): Watch {
  const { log, stderr, metrics, ledger } = parts;
  const { meters } = metrics;
  const sandboxes = createRecent(parts.askSandboxd, MAX_AGE_MS);
  const gateway = createRecent(parts.askGateway, MAX_AGE_MS);
  const accessLog = createAccessLog("api", stderr.write);

  const ready = createReadiness({
    log,
    maxAgeMs: MAX_AGE_MS,
    checks: [
      { name: "database", look: parts.askDatabase },
      // It flushes what was committed: a disk that hangs shows here.
      { name: "audit", look: () => ledger.durable() },
      { name: "disk", look: async () => checkDisk(parts.disk()) },
      { name: "store", look: parts.askStore },
      { name: "sandboxd", look: sandboxes },
      { name: "gateway", look: gateway },
    ],
  });

  async function read(): Promise<Reading> {
    const patience = Bun.sleep(PATIENCE_MS).then(() => null);
    const [sandboxd, runs, reasons] = await Promise.all([
      Promise.race([sandboxes().catch(() => null), patience]),
      Promise.race([gateway().catch(() => null), patience]),
      ready(),
    ]);
    const { user, system } = process.cpuUsage();
    return {
      ready: reasons.length === 0,
      sandboxd,
      gateway: runs,
      exec: parts.execStats(),
      runs: parts.runStats(),
      proof: parts.proofState(),
      audit: ledger.stats(),
      webhooks: parts.webhookStats(),
      disk: parts.disk(),
      logLinesLost: stderr.lost(),
      memoryBytes: process.memoryUsage.rss(),
      cpuSeconds: (user + system) / 1e6,
    };
  }

  return {
    onAnswered(context, method, status) {
      accessLog(context, method, status);
      meters.answered(context.route, method, status, (performance.now() - context.startedAt) / 1000);
    },
    ready,
    page: { render: async () => metrics.render(await read()), contentType: metrics.contentType },
  };
}

function checkDisk(disk: Reading["disk"]): void {
  if (!isBelowFloor(disk, disk.floorBytes)) return;
  if (disk.availableBytes >= disk.floorBytes) {
    const left = `${disk.freeFiles} of ${disk.totalFiles}`;
    throw new AppError("no_space", `${left} inodes are free, and so few that writes have stopped`);
  }
  const [free, floor] = [disk.availableBytes, disk.floorBytes].map((bytes) => Math.floor(bytes / MIB));
  throw new AppError("no_space", `${free} MiB are free, and writes stop at ${floor} MiB`);
}

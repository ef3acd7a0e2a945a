import type { Ledger } from "../../audit/ledger.ts";
import type { Database } from "../../db/open.ts";
import { AppError, foreseen } from "../../errors.ts";
import type { Check, OperationResult } from "../../protocol/sandboxd.ts";
import type { Reading } from "../../metrics/readings.ts";
import type { SandboxdClient } from "../../sandbox/sandboxd-client.ts";
import type { GatewayClient } from "../../runs/gateway-client.ts";
import type { AtRest } from "./at-rest.ts";
import { reasonOf } from "./reason.ts";
import type { Readiness } from "./readiness.ts";

export interface Status {
  readonly instance: string;
  readonly listen: string;
  readonly url: string;
  readonly uptime_s: number;
  readonly memory_bytes: number;
  /** Sentences that say why not; none when it is. */
  readonly not_ready: readonly string[];
  readonly exec: { readonly running: number; readonly waiting: number; readonly warm: number };
  readonly runs: Reading["runs"];
  /** Sentences on what works, but not as it should. */
  readonly notices: readonly string[];
  readonly disk: { readonly free_bytes: number; readonly total_bytes: number };
  readonly events: { readonly total: number; readonly chains: number };
  readonly webhooks: {
    readonly enabled: number;
    readonly in_flight: number;
    /** Of the delivery that is longest overdue. */
    readonly overdue_s: number;
  };
  /** A sentence when sandboxd does not answer. */
  readonly sandboxes: OperationResult<"status"> | string;
}

export interface StatusParts {
  readonly inst: string;
  readonly listen: () => string;
  readonly url: () => string;
  readonly startedAt: number;
  readonly ready: Readiness;
  readonly webhookStats: () => Reading["webhooks"];
  readonly execStats: () => Status["exec"];
  readonly runStats: () => Status["runs"];
  readonly disk: () => { readonly availableBytes: number; readonly totalBytes: number };
  readonly atRest: AtRest;
  readonly sandboxd: Pick<SandboxdClient, "call">;
  readonly db: Pick<Database, "faults" | "place">;
  readonly ledger: Pick<Ledger, "breaks" | "stats">;
  readonly checkStore: () => Promise<Check>;
  readonly proofNotices: () => readonly string[];
  readonly checkProof: () => Check;
  readonly checkBackup: () => Promise<Check[]>;
  readonly gateway: Pick<GatewayClient, "call">;
  /** What holds this process, as the kernel part sees it. */
  readonly confinement: () => Check[];
  /** Nothing without TLS. */
  readonly certificate: () => Check[];
}

/** What runs now, and what is wrong with the host, put together from this role's view and sandboxd's. */
export function createStatus(parts: StatusParts) {
  const notices = () => [...parts.atRest.notices(), ...parts.proofNotices()];
  return {
    notices,

    async status(): Promise<Status> {
      const { availableBytes, totalBytes } = parts.disk();
      const { running, waiting, warm } = parts.execStats();
      const { total, chains } = parts.ledger.stats();
      const { endpoints, inFlight, overdueMs } = parts.webhookStats();
      const [reasons, sandboxes] = await Promise.all([
        parts.ready(),
        parts.sandboxd.call("status", {}).catch(sentence),
      ]);
      return {
        instance: parts.inst,
        listen: parts.listen(),
        url: parts.url(),
        uptime_s: Math.floor((Date.now() - parts.startedAt) / 1000),
        memory_bytes: process.memoryUsage.rss(),
        not_ready: reasons.map(({ name, detail }) => `${name}: ${detail}`),
        notices: notices(),
        exec: { running, waiting, warm },
        runs: parts.runStats(),
        disk: { free_bytes: availableBytes, total_bytes: totalBytes },
        events: { total, chains },
        webhooks: { enabled: endpoints, in_flight: inFlight, overdue_s: Math.round(overdueMs / 1000) },
        sandboxes,
      };
    },

    async doctor(): Promise<Check[]> {
      const host = await parts.sandboxd.call("doctor", {}).catch(sentence);
      return [
        ...parts.confinement(),
        ...parts.certificate(),
        await databaseCheck(parts.db),
        auditCheck(parts.ledger),
        await parts.checkStore(),
        await parts.atRest.check(),
        parts.checkProof(),
        ...(await parts.checkBackup()),
        ...(await gatewayChecks(parts.gateway)),
        ...(typeof host === "string" ? [sandboxdAway(host)] : host.checks),
      ];
    },
  };
}

function sentence(error: unknown): string {
  if (error instanceof AppError) return error.message;
  throw error;
}

async function databaseCheck(db: StatusParts["db"]): Promise<Check> {
  const faults = await db.faults().catch((error: unknown) => [reasonOf(foreseen(error) ?? error)]);
  const isFile = db.place === "file";
  if (faults.length === 0) {
    return {
      name: "database",
      status: "ok",
      detail: isFile ? "its pages are well" : "its server answers",
      fix: null,
    };
  }
  return {
    name: "database",
    status: "fail",
    detail: faults.join("; "),
    fix: isFile
      ? "Stop the appliance and restore api/state/cofferdam.db from a backup."
      : "See to the server of [database] url: cofferdam config show.",
  };
}

function auditCheck(ledger: StatusParts["ledger"]): Check {
  const [broken] = ledger.breaks;
  if (broken === undefined) {
    const detail = `${ledger.stats().chains} chains go on where they ended`;
    return { name: "audit log", status: "ok", detail, fix: null };
  }
  return {
    name: "audit log",
    status: "fail",
    detail: `${broken.chain}: ${broken.reason}`,
    fix: "See cofferdam event verify; keep a copy of the data directory, and compare with backups and exports.",
  };
}

async function gatewayChecks(gateway: StatusParts["gateway"]): Promise<Check[]> {
  try {
    const { runs, requests, tunnels, checks } = await gateway.call("status", {});
    const detail = `it answers; ${runs} runs are let in, with ${requests} requests and ${tunnels} connections`;
    return [{ name: "gateway", status: "ok", detail, fix: null }, ...checks];
  } catch (error) {
    const why = error instanceof AppError && error.cause !== undefined ? error.cause : error;
    return [
      {
        name: "gateway",
        status: "fail",
        detail: `it does not answer (${reasonOf(why)})`,
        fix: "Its log says why: journalctl -u cofferdam-gateway, or what cofferdam serve writes.",
      },
    ];
  }
}

function sandboxdAway(why: string): Check {
  return {
    name: "sandboxd",
    status: "fail",
    detail: why,
    fix: "Start it: systemctl restart cofferdam.target, or cofferdam serve; its log says why it stopped.",
  };
}

import { foreseen } from "../errors.ts";
import type { RunId } from "../ids.ts";
import type { GatewayRecord } from "../protocol/gateway.ts";
import { RUN_GRACE_S } from "../protocol/sandboxd.ts";
import type { createAccounts } from "./account.ts";
import { grantOf } from "./grant.ts";
import type { Life } from "./life.ts";
import type { Lives } from "./lives.ts";
import type { LifeParts } from "./parts.ts";
import { pauseFor } from "./patience.ts";
import { limitsOf } from "./run.ts";

export interface RecordsParts extends Pick<
  LifeParts,
  "rows" | "gateway" | "credentials" | "secrets" | "log"
> {
  readonly lives: () => Pick<Lives, "all" | "get" | "closing">;
  readonly accounts: ReturnType<typeof createAccounts>;
}

const POLL_MS = 30_000;
const RETRY_MS = 250;
/** Between two takings: what a run can have refused again and again becomes few events. */
const PAUSE_MS = 200;

/** Takes over what the gateway records of runs, and lets them in again when the gateway has forgotten them. */
export function createRecords(parts: RecordsParts) {
  const { rows, gateway, accounts, log } = parts;

  /** Those that may have a journal. */
  const known = (): Life[] => [...parts.lives().all()].filter(({ phase }) => phase !== "queued");

  /** `start`: of the gateway that knows all runs; null where that makes no difference. */
  async function pull(start: string | null, timeoutMs: number): Promise<readonly GatewayRecord[]> {
    const after = known().map(({ id, gatewaySeq }) => ({ run: id, seq: gatewaySeq }));
    const { records } = await gateway.call("records", { start, after, timeout_ms: timeoutMs });
    for (const [run, own] of Map.groupBy(records, (record) => record.run)) await take(run, own);
    return records;
  }

  async function take(id: RunId, records: readonly GatewayRecord[]): Promise<void> {
    const upTo = await accounts.take(id, records);
    const life = parts.lives().get(id);
    if (life !== undefined && upTo !== null) life.gatewaySeq = Math.max(life.gatewaySeq, upTo);
    if (life === undefined) await leave(id);
  }

  /** One that api knows nothing of, or that is done with. */
  async function leave(run: RunId): Promise<void> {
    await gateway.call("revoke", { run });
    await gateway.call("forget", { run });
  }

  /** Also changes what a run may, when a credential was deleted. */
  async function grant(id: RunId): Promise<void> {
    const run = await rows.find(id);
    if (run === null || run.network === null || run.given === null) return;
    const deadline = run.deadline ?? Date.now() + limitsOf(run).timeout_s * 1000;
    await gateway.call("grant", await grantOf(parts, run, deadline + RUN_GRACE_S * 1000));
    // Its end may have taken this back before it was given.
    if (!isLet(parts.lives().get(id))) await gateway.call("revoke", { run: id });
  }

  /** By which start of the gateway all runs are let in now. */
  async function restore(): Promise<string> {
    const { start, runs } = await gateway.call("granted", {});
    const granted = new Set(runs);
    const failures: unknown[] = [];
    for (const life of known()) {
      // One that can't be let in, when its network has just gone say, keeps no other out.
      if (!granted.has(life.id) && isLet(life)) await grant(life.id).catch((error) => failures.push(error));
    }
    for (const id of runs) if (parts.lives().get(id) === undefined) await leave(id);
    if (failures.length > 0) throw failures[0];
    return start;
  }

  return {
    grant,

    /** All there is of a run's that api does not have yet. */
    async drain(id: RunId): Promise<void> {
      for (;;) {
        const records = await pull(null, 0);
        if (!records.some(({ run }) => run === id)) return;
      }
    },

    /** Until api stops. */
    async watch(): Promise<void> {
      const { closing: signal } = parts.lives();
      let start: string | null = null;
      while (!signal.aborted) {
        try {
          start ??= await restore();
          const records = await pull(start, POLL_MS);
          if (records.length > 0) await pauseFor(PAUSE_MS, signal);
        } catch (error) {
          if (signal.aborted) return;
          if (foreseen(error)?.code !== "unavailable")
            log.error("the gateway's records are not taken over", { cause: error });
          // It may have been restarted, and know of no run.
          start = null;
          await pauseFor(RETRY_MS, signal);
        }
      }
    },
  };
}

/** Whether the gateway is to know it. */
function isLet(life: Life | undefined): boolean {
  return life?.phase === "preparing" || life?.phase === "running";
}

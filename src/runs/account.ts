import { unchanged, type Planned } from "../audit/ledger.ts";
import { APPLIANCE, type EventDraft } from "../audit/event.ts";
import type { RunId } from "../ids.ts";
import type { GatewayRecord } from "../protocol/gateway.ts";
import type { LifeParts } from "./parts.ts";
import { accountOf, type Run } from "./run.ts";
import { credentialOf, eventOf, withRecord } from "./usage.ts";

export type AccountParts = Pick<LifeParts, "rows" | "ledger" | "credentials">;

/**
 * What the gateway has recorded becomes part of the run's row and of the audit log, in one transaction with how far that
 * has come: told twice, it counts once.
 */
export function createAccounts({ rows, ledger, credentials }: AccountParts) {
  function change(run: Run, records: readonly GatewayRecord[]): Planned<number> {
    const fresh = records.filter(({ seq }) => seq > run.gatewaySeq).toSorted((a, b) => a.seq - b.seq);
    const last = fresh.at(-1);
    if (last === undefined) return unchanged(run.gatewaySeq);
    const { usage, denials } = fresh.reduce(withRecord, accountOf(run));
    const used = new Map(
      fresh.flatMap((record) => {
        const credential = credentialOf(record);
        return credential === null ? [] : [[credential, record.at] as const];
      }),
    );
    return {
      statements: [
        rows.updating(run.id, { usage, denials, usdNano: usage.llm.usd_nano, gatewaySeq: last.seq }),
        ...used.entries().map(([credential, at]) => credentials.used(credential, at)),
      ],
      events: fresh.map((record) => draft(run, record)),
      result: last.seq,
    };
  }

  return {
    /** How far it is recorded now; null for a run that is no more. */
    async take(id: RunId, records: readonly GatewayRecord[]): Promise<number | null> {
      return ledger.change<number | null>(async () => {
        const run = await rows.find(id);
        return run === null ? unchanged(null) : change(run, records);
      });
    },
  };
}

function draft(run: Run, record: GatewayRecord): EventDraft {
  const { type, data } = eventOf(record);
  return { chain: run.workspaceId, type, namespace: run.namespace, data, origin: APPLIANCE };
}

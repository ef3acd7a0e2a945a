import { readdir } from "node:fs/promises";
import type { AnyElysia } from "elysia";
import type { Ledger } from "../audit/ledger.ts";
import type { Config } from "../config/schema.ts";
import type { Credentials } from "../credentials/credentials.ts";
import type { Database } from "../db/open.ts";
import type { AppError } from "../errors.ts";
import { runId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import type { Namespaces } from "../keys/namespaces.ts";
import type { Log } from "../log.ts";
import { createOwnAddresses } from "../net/own.ts";
import { createAddressPolicy } from "../net/policy.ts";
import { readPublishedPrices } from "../prices/published.ts";
import type { GatewayClient } from "../runs/gateway-client.ts";
import { agents } from "../runs/agents/agents.ts";
import { createRunInput } from "../runs/input.ts";
import { createRunOutput } from "../runs/output/output.ts";
import type { RunMeter } from "../runs/meter.ts";
import type { Policies } from "../runs/policy.ts";
import { factsOf } from "../runs/facts.ts";
import { createReceiptSigner } from "../runs/receipt.ts";
import { createResolver } from "../runs/resolve.ts";
import { createRunRows } from "../runs/rows.ts";
import { createRuns } from "../runs/runs.ts";
import { createDiskWatch } from "../runs/worktree/watch.ts";
import type { Worktrees } from "../runs/worktree/worktrees.ts";
import type { SandboxdClient } from "../sandbox/sandboxd-client.ts";
import type { Secrets } from "../secrets.ts";
import { createSnapshotRows } from "../snapshots/rows.ts";
import type { Floor } from "../volumes/floor.ts";
import type { Access } from "./auth.ts";
import { evidenceRoutes } from "./appliance/evidence.ts";
import { createRunCalls } from "./run-call.ts";
import type { Contexts } from "./http/context.ts";
import { createRunLogStreams, runLogRoutes } from "./run-logs.ts";
import { receiptRoutes } from "./receipts.ts";
import { runWorktreeRoutes } from "./run-worktrees.ts";
import { runRoutes } from "./runs.ts";

export interface OpenRunsParts {
  readonly instance: Instance;
  readonly config: () => Config;
  readonly db: Database;
  readonly ledger: Ledger;
  readonly secrets: Secrets;
  readonly sandboxd: SandboxdClient;
  readonly gateway: GatewayClient;
  readonly credentials: Credentials;
  readonly policies: Policies;
  readonly worktrees: Worktrees;
  readonly floor: Floor;
  readonly meter: RunMeter;
  /** Why no run may begin now; null when they may. */
  readonly closed: () => AppError | null;
  readonly bootId: string;
  readonly contexts: Contexts;
  readonly log: Log;
}

const MIB = 1024 * 1024;
/** Of one workspace; what they left has gone long before. */
const KEPT_ROWS = 10_000;
const HOUR_MS = 60 * 60_000;

/** Runs, and what they write and read. They know of each other here alone. */
export function openRuns(parts: OpenRunsParts) {
  const { instance, config, credentials, worktrees, log } = parts;
  const rows = createRunRows(parts.db);
  const output = createRunOutput({
    instance,
    maxBytes: () => config().runs.log_mb * MIB,
    live: () => config().runs.live,
    log,
  });
  const input = createRunInput({ instance });
  const streams = createRunLogStreams(log);
  const signer = createReceiptSigner(parts.secrets);
  // Read anew for each: a reload may have brought others.
  const prices = () => readPublishedPrices(instance.publishedPrices);
  const addresses = createAddressPolicy({
    allowPrivate: () => config().egress.allow_private,
    setting: "[egress] allow_private",
    isOwn: createOwnAddresses(),
  });
  const runs = createRuns({
    ...parts,
    rows,
    output,
    input,
    config: () => config().runs,
    resolve: createResolver({
      credentials,
      addresses,
      runs: () => config().runs,
      hasPrice: (model) => prices().of(model) !== null,
    }),
    adapters: agents,
    disk: createDiskWatch({
      measure: async (run) => worktrees.measure(run),
      floor: parts.floor,
      log,
    }),
    receipt: async (run) => {
      try {
        return signer.createReceipt(factsOf(run, parts.ledger.head(run.workspaceId)));
      } catch (error) {
        log.error("a run has no receipt", { run: run.id, cause: error });
        return null;
      }
    },
  });

  const snapshots = createSnapshotRows(parts.db);

  return {
    runs,

    routes(access: Access, namespaces: Pick<Namespaces, "find">): AnyElysia[] {
      const calls = createRunCalls({ access, rows, namespaces });
      return [
        runRoutes({ access, calls, runs, rows, namespaces, snapshots }),
        runLogRoutes({ calls, rows, output, input, streams, contexts: parts.contexts }),
        receiptRoutes({ access, calls, key: signer.key }),
        runWorktreeRoutes({ calls, worktrees }),
      ];
    },

    operatorRoutes(access: Access): AnyElysia[] {
      const { ledger } = parts;
      return [evidenceRoutes({ access, rows, ledger, key: signer.key, config: () => config().runs })];
    },

    /** Its clients come back to whoever answers next. */
    endStreams: () => streams.close(),

    /** What old runs have left: their worktrees, and what they said. */
    async expire(): Promise<void> {
      const keepMs = config().runs.keep_h * HOUR_MS;
      await worktrees.expire(keepMs);
      const pruned = await rows.prune(KEPT_ROWS, Date.now() - keepMs);
      if (pruned > 0) log.info("the oldest runs were removed from the lists", { runs: pruned });
      for (const name of await readdir(instance.api.runs)) {
        const id = runId.schema.safeParse(name);
        if (!id.success || runs.knows(id.data)) continue;
        const run = await rows.find(id.data);
        // Without a row it was a spare of an api that was killed, or its namespace has gone.
        if (run === null) await worktrees.remove(id.data);
        if (run === null || (run.finishedAt ?? Infinity) < Date.now() - keepMs) await output.remove(id.data);
      }
    },

    async close(): Promise<void> {
      await runs.close();
      input.closeAll();
      output.close();
      worktrees.close();
    },
  };
}

import { and, eq, isNotNull, isNull, sql } from "drizzle-orm";
import type { Origin } from "../audit/event.ts";
import { keys as keyTable, runs as table } from "../db/schema.ts";
import type { Config } from "../config/schema.ts";
import type { AppError } from "../errors.ts";
import type { CredentialId, KeyId, NamespaceId, RunId } from "../ids.ts";
import { createAccounts } from "./account.ts";
import { createEnds } from "./ends.ts";
import { createFinish, type FinishParts } from "./finish.ts";
import { createLives } from "./lives.ts";
import { pauseFor } from "./patience.ts";
import { createPreparation, type PrepareParts } from "./prepare.ts";
import { createRunQueue } from "./queue.ts";
import { createRecords } from "./records.ts";
import type { RunRequest } from "./request.ts";
import { noRun, type Run, type RunStop } from "./run.ts";
import { createSpares } from "./spares.ts";
import { createStarting, type StartCall, type StartingParts, type Wanted } from "./start.ts";

export interface RunsParts
  extends Omit<PrepareParts, "spares" | "room">, StartingParts, Omit<FinishParts, "drainRecords"> {
  /** Why no run may begin now; null when they may. */
  readonly closed?: () => AppError | null;
}

export type Runs = ReturnType<typeof createRuns>;

const MIB = 1024 * 1024;
/** Below this no further sandbox is booted: what is there needs it. */
const LEAST_MEMORY_BYTES = 256 * MIB;
/** Nor one that nobody waits for below this. */
const SPARE_MEMORY_BYTES = 1024 * MIB;
const ROOM_EVERY_MS = 1_000;
const CLOSE_PATIENCE_MS = 5_000;

/** The runs of the appliance: src/runs/lives.ts drives them, and here is what callers do with them. */
export function createRuns(parts: RunsParts) {
  const { db, rows, config, sandboxd, output, worktrees, log } = parts;
  const queue = createRunQueue(
    () => {
      const { live, per_workspace, queue, pool } = config();
      // Each has a network, and so has each spare.
      const networks = Math.max(1, networksOf(config()) - pool);
      return { live: Math.min(live, networks), perWorkspace: per_workspace, queue };
    },
    (id) => lives.admit(id),
    { isClosed: () => refusal() !== null },
  );
  const accounts = createAccounts(parts);
  const records = createRecords({ ...parts, accounts, lives: () => lives });
  const closing = new AbortController();
  const spares = createSpares({
    ...parts,
    target: () => config().pool,
    room: async (signal) => room(SPARE_MEMORY_BYTES, signal),
    hasRoom: async () => (await freeMemory()) >= LEAST_MEMORY_BYTES,
    closing: closing.signal,
  });
  const preparation = createPreparation({
    ...parts,
    spares,
    room: async (signal) => room(LEAST_MEMORY_BYTES, signal),
  });
  const starting = createStarting(parts);
  const finish = createFinish({ ...parts, drainRecords: async (id) => records.drain(id) });
  const lives = createLives({
    ...parts,
    preparation,
    finish,
    queue,
    closing,
  });
  const ends = createEnds({ ...parts, lives, relaunch, spares });

  function refusal(): AppError | null {
    return parts.closed?.() ?? null;
  }

  async function relaunch(id: RunId): Promise<void> {
    const run = await rows.find(id);
    if (run !== null && run.given !== null) await preparation.launch(run);
  }

  /** Whether sandboxd answers shows at the next step. */
  async function freeMemory(): Promise<number> {
    return sandboxd.call("status", {}).then(
      (status) => status.memory_available_bytes,
      () => Infinity,
    );
  }

  /** Waits while the host has no memory for one more. */
  async function room(bytes: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if ((await freeMemory()) >= bytes) return;
      await pauseFor(ROOM_EVERY_MS, signal);
    }
  }

  async function stopAll(
    found: readonly { readonly id: RunId }[],
    why: RunStop,
    options: { readonly origin: Origin; readonly atOnce?: boolean },
  ): Promise<void> {
    await Promise.all(found.map(({ id }) => lives.stop(id, why, options)));
  }

  return {
    /** What a request comes to. Throws AppError with the field that is wrong. */
    check: async (where: Pick<StartCall, "workspaceId" | "namespace">, request: RunRequest) =>
      starting.check(where, request),

    /** A run that lives, or waits for its turn. Throws AppError when no more are taken. */
    async start(call: StartCall, request: RunRequest, wanted: Wanted): Promise<Run> {
      if (call.ofProof === true) {
        // It has to find out whether the walls stand again, and whoever fills the appliance must not keep it from that.
        const run = await starting.insert(call, request, wanted, null);
        lives.add(run);
        queue.enterAtOnce(run.workspaceId, run.id);
        return run;
      }
      const closed = refusal();
      if (closed !== null) throw closed;
      using place = queue.reserve(call.workspaceId, wanted.policy.concurrent_runs);
      const spare = place.atOnce ? spares.take() : null;
      try {
        const run = await starting.insert(call, request, wanted, spare);
        lives.add(run);
        place.enter(run.id);
        return run;
      } catch (error) {
        if (spare !== null) void spares.giveBack(spare);
        throw error;
      }
    },

    /** Asks it to end, and kills it if it does not soon. One that is over stays as it is. */
    async cancel(run: Run, origin: Origin): Promise<Run> {
      await lives.stop(run.id, { status: "cancelled", error: null }, { origin });
      const now = await rows.find(run.id);
      if (now === null) throw noRun(run.id);
      return now;
    },

    /** Why it ends is not what its caller did. */
    async stop(id: RunId, why: RunStop, origin: Origin): Promise<void> {
      await lives.stop(id, why, { origin });
    },

    /** Their runs end as the keys do. */
    async endOfKeys(ids: readonly KeyId[], origin: Origin): Promise<void> {
      const ended = new Set<KeyId>(ids);
      const found = (await rows.unsettled()).filter(({ keyId }) => keyId !== null && ended.has(keyId));
      await stopAll(found, KEY_ENDED, { origin });
    },

    /** When it resolves, nothing of the namespace's runs lives any more. */
    async endOfNamespace(id: NamespaceId, origin: Origin): Promise<void> {
      const found = await rows.unsettled(id);
      await stopAll(found, NAMESPACE_ENDED, { origin, atOnce: true });
      for (const { id: run } of found) await lives.get(run)?.over.promise;
    },

    /** What its runs have left. Their rows go with the namespace's. */
    async removeOf(id: NamespaceId): Promise<void> {
      for (const run of await rows.idsOf(id)) {
        await output.remove(run);
        await worktrees.remove(run);
      }
    },

    /** Runs that use it lose it. */
    async credentialRemoved(credential: CredentialId): Promise<void> {
      const using = [...lives.all()].filter(({ credentials }) => credentials.includes(credential));
      await Promise.all(
        using.map(({ id }) =>
          records
            .grant(id)
            .catch((cause: unknown) =>
              log.warn("a run may still use a deleted credential", { run: id, cause }),
            ),
        ),
      );
    },

    /** Takes up what an api before this one has left, and goes on with it. */
    async resume(origin: Origin): Promise<void> {
      for (const run of await rows.unsettled()) {
        if (run.status === "queued" && run.stop === null) {
          lives.add(run);
          const { concurrent_runs } = await parts.policies.of(run.workspaceId);
          queue.waits(run.workspaceId, run.id, concurrent_runs);
          continue;
        }
        queue.lives(run.workspaceId, run.id);
        lives.resume(run);
      }
      // A key that was revoked right before a crash.
      const orphans = await db
        .select({ id: table.id })
        .from(table)
        .innerJoin(keyTable, eq(keyTable.id, table.keyId))
        .where(and(sql`${table.settled} = 0`, isNull(table.finishedAt), isNotNull(keyTable.revokedAt)));
      await stopAll(orphans, KEY_ENDED, { origin });
      void ends.watch();
      void records.watch();
      spares.fill();
    },

    reload(): void {
      queue.reload();
      spares.fill();
    },
    /** Whether it has something of this api's: a run that is not settled, or a spare. */
    knows: (id: RunId) => lives.get(id) !== undefined || spares.isSpare(id),
    stats: () => ({ ...queue.stats(), spare: spares.waiting().length }),

    /** Runs go on without api. */
    async close(): Promise<void> {
      await lives.close(CLOSE_PATIENCE_MS);
      await spares.close(CLOSE_PATIENCE_MS);
    },
  };
}

/** How many networks of runs' own the subnet is cut into. */
function networksOf({ subnet, prefix }: Config["runs"]): number {
  return 2 ** (prefix - Number(subnet.split("/")[1]));
}

const KEY_ENDED: RunStop = { status: "cancelled", error: "The key that started it was revoked." };
const NAMESPACE_ENDED: RunStop = { status: "cancelled", error: "Its namespace was deleted." };

import type { RunId } from "../ids.ts";
import type { Log } from "../log.ts";
import type { GatewayRecord, OperationArgs, OperationResult, RunGrant } from "../protocol/gateway.ts";
import { OperationError } from "../protocol/lines/failure.ts";
import { createDenials } from "./denials.ts";
import type { Egress } from "./egress/egress.ts";
import type { Grant } from "./grant.ts";
import type { Journal } from "./journal.ts";
import type { Journals } from "./journals.ts";
import { listenForRun, type Lanes } from "./listener.ts";
import { openSecrets } from "./secrets.ts";
import { createTurns } from "../turns.ts";

export interface AdmittedParts {
  readonly journals: Journals;
  readonly privateKey: Uint8Array;
  readonly lanes: Lanes;
  readonly egress: Egress;
  /** [runs] gateway_port; the web proxy's is the next one. */
  readonly port: number;
  readonly log: Log;
  /** For tests: how long the requests of a run that is revoked get to be settled. */
  readonly settleMs?: number;
}

/** One that is let in. */
interface Run {
  /** What api changes of it, its grant shows at once. */
  readonly current: { spec: RunGrant; secrets: Awaited<ReturnType<typeof openSecrets>> };
  readonly journal: Journal;
  readonly abort: AbortController;
  readonly denials: ReturnType<typeof createDenials>;
  deadline: Timer;
  readonly doors: { requests(): number; tunnels(): number; stop(): Promise<void> };
}

/** What runs end with is tried again so often. */
const END_EVERY_MS = 60_000;
/** How long after a start runs are waited for that lived before it. */
const RETURN_MS = 300_000;
const SETTLE_MS = 3_000;
const SETTLE_LOOK_MS = 10;
/** Of one answer. */
const RECORDS_BYTES = 2 * 1024 * 1024;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The runs that are let in, and what is left of those that were. */
export function createAdmitted(parts: AdmittedParts) {
  const { journals, privateKey, lanes, egress, port, log, settleMs = SETTLE_MS } = parts;
  const runs = new Map<RunId, Run>();
  const turns = createTurns();
  const started = performance.now();
  const start = crypto.randomUUID();
  /** Revoked or not: api knows all of them, and their journals go once nothing is kept in them. */
  const forgotten = new Set<RunId>();
  const revoked = new Set<RunId>();
  const state = { closed: false };

  async function admit(spec: RunGrant): Promise<void> {
    const secrets = await openSecrets(privateKey, spec);
    const known = runs.get(spec.run);
    if (known?.current.spec.host === spec.host && !known.abort.signal.aborted) {
      Object.assign(known.current, { spec, secrets });
      clearTimeout(known.deadline);
      known.deadline = deadlineOf(known.abort, spec);
      return;
    }
    if (known !== undefined) await close(known);
    forgotten.delete(spec.run);
    revoked.delete(spec.run);
    const journal = journals.of(spec.run);
    const abort = new AbortController();
    const denials = createDenials((denial) => journal.append({ kind: "denied", ...denial }));
    const current = { spec, secrets };
    const grant: Grant = {
      run: spec.run,
      spec: () => current.spec,
      secret: (credential) => current.secrets.get(credential),
      journal,
      deny: (denial) => denials.deny(denial),
      signal: abort.signal,
    };
    const doors = openDoors(grant);
    runs.set(spec.run, { current, journal, abort, denials, deadline: deadlineOf(abort, spec), doors });
  }

  function openDoors(grant: Grant): Run["doors"] {
    const listener = listenForRun({ grant, port, lanes, log });
    try {
      const proxy = egress.listen(grant, port + 1);
      return {
        requests: () => listener.requests(),
        tunnels: () => proxy.tunnels(),
        async stop() {
          proxy.stop();
          await listener.stop();
        },
      };
    } catch (error) {
      listener.stop().catch(() => {});
      throw error;
    }
  }

  /** Ends all that is under way, and returns when it is settled. */
  async function close(run: Run): Promise<void> {
    runs.delete(run.current.spec.run);
    clearTimeout(run.deadline);
    run.abort.abort();
    await run.doors.stop();
    const patience = performance.now() + settleMs;
    while (run.journal.open() > 0 && performance.now() < patience) await Bun.sleep(SETTLE_LOOK_MS);
    run.journal.settleRest();
    run.denials.flush();
    run.current.secrets = new Map();
  }

  /** What lanes have left to undo for a run that is over. */
  async function end(run: RunId): Promise<void> {
    const journal = journals.find(run);
    if (journal === undefined || runs.has(run)) return;
    if (journal.kept().size > 0) for (const lane of [lanes.llm, lanes.git]) await lane.end?.(journal);
    if (journal.kept().size === 0 && forgotten.delete(run)) journals.remove(run);
  }

  const ending = setInterval(() => {
    const isOverdue = performance.now() - started > RETURN_MS;
    for (const journal of journals.all()) {
      const { run } = journal;
      if (runs.has(run) || (!isOverdue && !revoked.has(run) && !forgotten.has(run))) continue;
      if (journal.kept().size === 0 && !forgotten.has(run)) continue;
      turns
        .run(run, () => end(run))
        .catch((error: unknown) => log.error("what a run has left was not undone", { run, error }));
    }
  }, END_EVERY_MS);
  ending.unref();

  return {
    grant: (spec: RunGrant): Promise<void> => turns.run(spec.run, () => admit(spec)),

    async revoke(id: RunId): Promise<void> {
      await turns.run(id, async () => {
        revoked.add(id);
        const run = runs.get(id);
        if (run !== undefined) await close(run);
        await end(id).catch((error: unknown) =>
          log.error("what a run has left was not undone; it is tried again", { run: id, error }),
        );
      });
    },

    granted: (): OperationResult<"granted"> => ({ start, runs: [...runs.keys()] }),

    async records({ start: of, after, timeout_ms }: OperationArgs<"records">): Promise<GatewayRecord[]> {
      if (of !== null && of !== start) throw new OperationError("unavailable", "the gateway has restarted");
      const until = performance.now() + timeout_ms;
      for (let woken = false; ; woken = true) {
        const before = journals.count();
        const found: GatewayRecord[] = [];
        let room = RECORDS_BYTES;
        for (const { run, seq } of after) {
          if (room <= 0) break;
          const records = (await journals.find(run)?.recordsAfter(seq, room)) ?? [];
          room -= records.reduce((bytes, record) => bytes + JSON.stringify(record).length, 0);
          found.push(...records);
        }
        // Woken by a record of a run that was let in since: who asks knows of it by now, and asks for it, too.
        if (found.length > 0 || woken || state.closed || performance.now() >= until) return found;
        await journals.beyond(before, until - performance.now());
      }
    },

    async forget(id: RunId): Promise<void> {
      await turns.run(id, async () => {
        const run = runs.get(id);
        if (run !== undefined) await close(run);
        revoked.delete(id);
        forgotten.add(id);
        await end(id).catch((error: unknown) =>
          log.error("what a run has left was not undone; its journal stays until it is", { run: id, error }),
        );
      });
    },

    stats() {
      const all = [...runs.values()];
      return {
        runs: all.length,
        requests: all.reduce((sum, { doors }) => sum + doors.requests(), 0),
        tunnels: all.reduce((sum, { doors }) => sum + doors.tunnels(), 0),
      };
    },

    async stop(): Promise<void> {
      state.closed = true;
      clearInterval(ending);
      journals.wake();
      await Promise.all([...runs.values()].map((run) => close(run)));
    },
  };
}

function deadlineOf(abort: AbortController, { deadline }: RunGrant): Timer {
  const left = Math.min(Math.max(0, deadline - Date.now()), LONGEST_TIMER_MS);
  return setTimeout(() => abort.abort(), left).unref();
}

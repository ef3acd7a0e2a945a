import { APPLIANCE, type EventDraft } from "../audit/event.ts";
import { unchanged } from "../audit/ledger.ts";
import { foreseen } from "../errors.ts";
import type { RunId } from "../ids.ts";
import type { RunFate } from "../protocol/sandboxd.ts";
import { outcomeOf, type Outcome } from "./outcome.ts";
import type { LifeParts } from "./parts.ts";
import { patiently } from "./patience.ts";
import { withDropped } from "./usage.ts";
import type { WorktreeCall } from "./worktree/worktrees.ts";
import {
  accountOf,
  fateOf,
  isOver,
  limitsOf,
  specOf,
  stopOf,
  timingsOf,
  type Run,
  type RunRow,
  type RunTimings,
} from "./run.ts";

export interface FinishParts extends LifeParts {
  /** Takes over what the gateway has recorded of a run to the last. */
  readonly drainRecords: (run: RunId) => Promise<void>;
  /** Signs what its row says by then; null when it can't. */
  readonly receipt: (run: Run) => Promise<unknown>;
}

/** A gateway that restarts is back sooner; a run's end is not kept from its caller for longer. */
const GATEWAY_PATIENCE_MS = 20_000;
/** A namespace that nobody can have for that long is not waited for. */
const MERGE_PATIENCE_MS = 5 * 60_000;
const SETTLE_PATIENCE_MS = 24 * 60 * 60_000;

/** What a run's end makes of its row, as that is by then. */
type End = (run: Run) => Partial<RunRow> & Pick<RunRow, "status" | "finishedAt">;

/** From the end of a run's sandbox to where nothing is left to be done for it. */
export function createFinish(parts: FinishParts) {
  const { rows, ledger, sandboxd, gateway, output, worktrees, log } = parts;

  /** A step whose failure must not keep the run from being over: false when it failed. */
  async function attempt(run: Run, failed: string, work: () => Promise<unknown>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      log.error(failed, { run: run.id, cause: error });
      return false;
    }
  }

  async function leaveGateway(run: Run, signal: AbortSignal): Promise<void> {
    await patiently(
      async () => {
        await gateway.call("revoke", { run: run.id });
        await parts.drainRecords(run.id);
      },
      { forMs: parts.gatewayPatienceMs ?? GATEWAY_PATIENCE_MS, signal },
    );
  }

  /** Its row says that it is over, with the event, unless it does already. */
  async function conclude(id: RunId, end: End): Promise<Run | null> {
    const before = await rows.find(id);
    if (before === null) return null;
    const receipt = isOver(before) ? null : await parts.receipt({ ...before, ...end(before) });
    // Before the row says so: whoever follows its output may go then.
    if (!isOver(before))
      await attempt(before, "a run's log lacks how it ended", async () => tell(id, end(before)));
    const over = await ledger.change<Run | null>(async () => {
      const run = await rows.find(id);
      if (run === null || isOver(run)) return unchanged(run);
      const final = { ...end(run), given: null, receipt };
      return {
        statements: [rows.updating(id, final)],
        events: [...dropped({ ...run, ...final }), finished({ ...run, ...final })],
        result: { ...run, ...final },
      };
    });
    output.finish(id);
    if (over !== null) parts.meter.ended(over.status as Outcome["status"]);
    return over;
  }

  function tell(id: RunId, { status, exitCode = null, error = null }: ReturnType<End>): void {
    const code = exitCode === null ? "" : `, exit code ${exitCode}`;
    output.status(id, `${status}${code}${error === null ? "" : `. ${error}`}`);
  }

  async function onSuccess(run: Run, signal: AbortSignal): Promise<void> {
    const { on_success } = specOf(run);
    if (run.status !== "succeeded" || run.worktree !== "ready" || on_success === "keep") return;
    if (on_success === "discard") return worktrees.discard(run.id, callFor(run), "on_success");
    try {
      const merge = async () => worktrees.merge(run.id, callFor(run));
      await patiently(merge, { forMs: MERGE_PATIENCE_MS, signal });
    } catch (error) {
      // The next start of api merges it.
      signal.throwIfAborted();
      const known = foreseen(error);
      if (known === null) log.error("a run was not merged", { run: run.id, cause: error });
      const now = await rows.find(run.id);
      // Otherwise its caller has merged or discarded it meanwhile.
      if (now?.worktree !== "ready") return;
      const why = known?.message ?? "the appliance failed to, and its log says why.";
      await rows.update(run.id, { error: `It was not merged: ${why}` });
    }
  }

  return {
    /** `run` is over on the host, and its row keeps its fate. */
    async finish(run: Run, signal: AbortSignal): Promise<Run | null> {
      const fate = fateOf(run);
      if (fate === null) throw new Error(`${run.id} has not ended`);
      const begun = performance.now();
      const [, complete] = await Promise.all([
        attempt(run, "the end of a run's output was not stored", () => output.drained(run.id)),
        attempt(run, "what a run has used is not known to the last", () => leaveGateway(run, signal)),
        attempt(run, "the files of a run were not read", () => worktrees.settle(run.id, signal)),
      ]);
      signal.throwIfAborted();
      const finish_ms = Math.round(performance.now() - begun);
      const firstAt = output.firstAt(run.id);
      const first = firstAt === null ? {} : { first_output_ms: Math.max(0, firstAt - run.createdAt) };
      return conclude(run.id, (now) => ended(now, fate, { complete, timings: { ...first, finish_ms } }));
    },

    /** One that never began. */
    async abandon(run: Run, outcome: Outcome): Promise<Run | null> {
      await attempt(run, "the files of a run that did not begin were not removed", () =>
        worktrees.remove(run.id),
      );
      const none = { worktree: "discarded", base: null } as const;
      return conclude(run.id, (now) => ({
        ...columns(outcome),
        ...none,
        finishedAt: Date.now(),
        usage: { ...accountOf(now).usage, complete: true },
      }));
    },

    /** After its row says that it is over; also again after a crash. */
    async settle(run: Run, signal: AbortSignal): Promise<void> {
      await attempt(run, "what was to be done with a run's files was not done", () => onSuccess(run, signal));
      await patiently(
        async () => {
          await gateway.call("revoke", { run: run.id });
          await parts.drainRecords(run.id);
          await gateway.call("forget", { run: run.id });
          await sandboxd.call("forgetRun", { run: run.id });
        },
        { forMs: SETTLE_PATIENCE_MS, signal },
      );
      await rows.update(run.id, { settled: true });
    },
  };
}

/** What the appliance does by itself with what a run has left. */
function callFor({ workspaceId, namespace }: Run): WorktreeCall {
  return {
    event: (type, data) => ({ chain: workspaceId, type, namespace, data, origin: APPLIANCE }),
  };
}

function columns({ status, exitCode, error }: Outcome) {
  return { status, exitCode, error };
}

interface Finished {
  /** Whether the gateway has told of all that it used. */
  readonly complete: boolean;
  readonly timings: RunTimings;
}

function ended(run: Run, fate: RunFate, { complete, timings }: Finished): ReturnType<End> {
  const { usage, denials: before } = accountOf(run);
  const denials = withDropped(before, fate);
  const { deadline, startedAt } = run;
  const outcome = outcomeOf({ fate, stop: stopOf(run), deadline, limits: limitsOf(run), denials });
  const run_ms = Math.max(0, fate.ended_at - (startedAt ?? fate.ended_at));
  return {
    ...columns(outcome),
    finishedAt: fate.ended_at,
    usage: { ...usage, peak_memory_bytes: fate.peak_memory_bytes, cpu_ms: fate.cpu_ms, complete },
    denials,
    timings: { ...timingsOf(run), run_ms, ...timings },
  };
}

/** What its network's filter dropped; all else that it was refused the gateway has told of when it was. */
function dropped(run: Run): EventDraft[] {
  const ofNetwork = accountOf(run).denials.filter(({ kind }) => kind === "network");
  return ofNetwork.map(({ reason, count }) => ({
    chain: run.workspaceId,
    type: "run.denied",
    namespace: run.namespace,
    data: { run_id: run.id, lane: "network", reason, count },
    origin: APPLIANCE,
  }));
}

function finished(run: Run): EventDraft {
  const { usage } = accountOf(run);
  return {
    chain: run.workspaceId,
    type: "run.finished",
    namespace: run.namespace,
    data: {
      run_id: run.id,
      status: run.status,
      exit_code: run.exitCode,
      error: run.error,
      duration_ms: (run.finishedAt ?? 0) - (run.startedAt ?? run.finishedAt ?? 0),
      llm_requests: usage.llm.requests,
      usd_nano: usage.llm.usd_nano,
      usage_complete: usage.complete,
    },
    origin: APPLIANCE,
  };
}

import { AppError, foreseen } from "../errors.ts";
import type { RunId } from "../ids.ts";
import { RUN_GRACE_S } from "../protocol/sandboxd.ts";
import { grantOf, refuseIncomplete } from "./grant.ts";
import { openGiven } from "./given.ts";
import { StdinFull } from "./input.ts";
import { launchOf, type Adapters } from "./launch.ts";
import type { LifeParts } from "./parts.ts";
import { patiently } from "./patience.ts";
import type { Sandbox, Spares, Taken } from "./spares.ts";
import { grantsOf, limitsOf, networkOf, specOf, timingsOf, type Run } from "./run.ts";

/** How long a run that begins waits for a role that is away. */
const PATIENCE_MS = 60_000;

export interface PrepareParts extends LifeParts {
  readonly adapters: Adapters;
  readonly spares: Pick<Spares, "claim">;
  /** Resolves once the host has room for one more sandbox. */
  readonly room: (signal: AbortSignal) => Promise<void>;
}

/** From a run that may live to one whose command is about to start. */
export function createPreparation(parts: PrepareParts) {
  const { rows, ledger, sandboxd, gateway, output, input, worktrees, config, secrets, log } = parts;

  /** Whatever an earlier try has made of a sandbox; nothing of the tenant's has run in it. */
  async function undo(run: Run, signal: AbortSignal): Promise<void> {
    await patiently(
      async () => {
        await sandboxd.call("stopRun", { run: run.id });
        await sandboxd.call("forgetRun", { run: run.id });
      },
      { forMs: PATIENCE_MS, signal },
    );
  }

  async function boot(run: Run, signal: AbortSignal): Promise<Sandbox> {
    return patiently(() => sandboxd.call("startRun", { run: run.id }), {
      forMs: PATIENCE_MS,
      signal,
    });
  }

  async function begin(run: Run, startedAt: number, timings: Record<string, number>): Promise<Run> {
    const change = {
      status: "running",
      startedAt,
      deadline: startedAt + limitsOf(run).timeout_s * 1000,
      timings,
    } as const;
    await ledger.change(async () => ({
      statements: [rows.updating(run.id, change)],
      events: [
        {
          chain: run.workspaceId,
          type: "run.started",
          namespace: run.namespace,
          data: { run_id: run.id },
          origin: { keyId: run.keyId, localUser: null, requestId: null, address: null },
        },
      ],
      result: undefined,
    }));
    return { ...run, ...change };
  }

  /** Also of one that is running already, and perhaps has been launched: then nothing comes of it. */
  async function launch(run: Run): Promise<void> {
    const network = networkOf(run);
    if (network === null || run.given === null) throw new Error(`${run.id} has nothing to be launched with`);
    const given = openGiven(secrets, run.given, run.id);
    const what = launchOf({
      run: run.id,
      spec: specOf(run),
      grants: grantsOf(run),
      limits: limitsOf(run),
      given,
      host: network.host,
      port: config().gateway_port,
      adapters: parts.adapters,
    });
    await input.launch(run.id, what);
    // As the command reads it, which nobody waits for.
    if (given.stdin !== null) void feed(run.id, Buffer.from(given.stdin));
  }

  async function feed(run: RunId, stdin: Uint8Array): Promise<void> {
    for (let at = 0; ;) {
      try {
        if (at < stdin.length) await input.write(run, stdin.subarray(at), at);
        at = stdin.length;
        return await input.eof(run);
      } catch (error) {
        if (error instanceof StdinFull) at += error.written;
        else if (foreseen(error)?.code === "conflict") return;
        else return log.error("a run did not get all of its stdin", { run, cause: error });
      }
    }
  }

  /** With a sandbox that was taken for it, or one that is booted now. */
  async function attempt(before: Run, taken: Taken | null, signal: AbortSignal): Promise<Run> {
    const clock = stopwatch();
    const timings: Record<string, number> = {
      ...timingsOf(before),
      queued_ms: Math.max(0, Date.now() - before.createdAt),
    };
    if (before.status === "preparing") await undo(before, signal);
    if (taken === null) await parts.room(signal);
    signal.throwIfAborted();
    const preparing = { status: "preparing", bootId: parts.bootId } as const;
    await rows.update(before.id, preparing);
    worktrees.prepare(before.id);
    output.prepare(before.id);
    const run = { ...before, ...preparing };
    // The worktree is filled while the sandbox boots that has it mounted.
    const [made, booted] = await Promise.allSettled([
      worktrees.make({ run, source: specOf(run).worktree, signal }),
      clock.of(async () => taken?.sandbox ?? boot(run, signal)),
    ]);
    if (made.status === "rejected") throw made.reason;
    if (booted.status === "rejected") throw booted.reason;
    const { ms: sandbox_ms, result: sandbox } = booted.value;
    const { network, made_of: madeOf, took } = sandbox;
    Object.assign(timings, took, { base_ms: made.value.baseMs, files_ms: made.value.filesMs, sandbox_ms });
    const connected = { ...run, network };
    await rows.update(run.id, { network, madeOf });
    output.attach(run.id);
    const startedAt = Date.now();
    timings["admit_ms"] = (await clock.of(() => admit(connected, startedAt, signal))).ms;
    signal.throwIfAborted();
    const running = await begin(connected, startedAt, timings);
    output.status(run.id, running.status);
    await launch(running);
    parts.meter.begun(taken?.waited === true ? "spare" : "boot", (Date.now() - before.createdAt) / 1000);
    return running;
  }

  return {
    launch,
    undo,

    /** Throws when it can't begin, or with the signal's reason; what it made is then for `undo`. */
    async prepare(run: Run, signal: AbortSignal): Promise<Run> {
      const taken = parts.spares.claim(run.id);
      if (taken === null || !(await taken.begun)) return attempt(run, null, signal);
      try {
        return await attempt(run, taken, signal);
      } catch (error) {
        if (signal.aborted) {
          await undo(run, AbortSignal.timeout(PATIENCE_MS));
          throw error;
        }
        // It may have ended since it was booted.
        log.warn("a run did not begin in the sandbox that was taken for it; it gets another", {
          run: run.id,
          cause: error,
        });
        return attempt({ ...run, status: "preparing" }, null, signal);
      }
    },
  };

  async function admit(run: Run, startedAt: number, signal: AbortSignal): Promise<void> {
    const limits = limitsOf(run);
    const deadline = startedAt + limits.timeout_s * 1000;
    const { timeout_s, memory_mb, cpus, pids } = limits;
    const patience = { forMs: PATIENCE_MS, signal };
    const grant = await grantOf(parts, run, deadline + RUN_GRACE_S * 1000);
    refuseIncomplete(run, grant);
    await Promise.all([
      patiently(() => gateway.call("grant", grant), patience),
      patiently(
        () =>
          sandboxd.call("admitRun", {
            run: run.id,
            memory_mb,
            cpus,
            pids,
            timeout_s: timeout_s + RUN_GRACE_S,
            direct: grantsOf(run).direct,
          }),
        patience,
      ),
    ]);
  }
}

/** What a caller is told of a run that could not begin. */
export function sentenceOf(error: unknown): string {
  return error instanceof AppError ? error.message : "The appliance failed to begin it; its log says why.";
}

function stopwatch() {
  return {
    /** How long it took, in whole milliseconds. */
    async of<T>(work: () => Promise<T>): Promise<{ result: T; ms: number }> {
      const begun = performance.now();
      const result = await work();
      return { result, ms: Math.round(performance.now() - begun) };
    },
  };
}

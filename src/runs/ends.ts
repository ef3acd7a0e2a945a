import { foreseen } from "../errors.ts";
import type { RunId } from "../ids.ts";
import type { RunFate } from "../protocol/sandboxd.ts";
import type { Life } from "./life.ts";
import type { Lives } from "./lives.ts";
import type { LifeParts } from "./parts.ts";
import { pauseFor } from "./patience.ts";
import type { Spares } from "./spares.ts";

export interface EndsParts extends Pick<LifeParts, "rows" | "sandboxd" | "output" | "bootId" | "log"> {
  readonly lives: Pick<Lives, "all" | "get" | "end" | "closing">;
  /** Tells a run's first process again what to start. */
  readonly relaunch: (id: RunId) => Promise<void>;
  /** Sandboxes that wait for a run, and so have no row. */
  readonly spares: Pick<Spares, "isSpare" | "waiting" | "lost">;
}

const POLL_MS = 30_000;
const RETRY_MS = 250;

/**
 * Learns from sandboxd which runs have ended, and compares what it has with what should live: whenever sandboxd was away,
 * and every half minute. No run shows as running with nothing behind it, and no sandbox lives without its run.
 */
export function createEnds(parts: EndsParts) {
  const { rows, sandboxd, output, lives, spares, log } = parts;
  const { closing: signal } = lives;

  async function take(id: RunId): Promise<void> {
    const life = lives.get(id);
    const state = await sandboxd.call("inspectRun", { run: id });
    if (state.state === "ended" && life?.phase === "running") {
      // Until it is forgotten, sandboxd holds what it wrote last; an api that comes back holds nothing.
      await stored(id);
      await lives.end(life, state.fate);
    }
    // One whose sandbox ends while it is prepared is begun again, or given up, by who does that.
    else if (life?.phase === "preparing") return;
    await sandboxd.call("forgetRun", { run: id });
    if (life === undefined) spares.lost(id);
  }

  async function stored(id: RunId): Promise<void> {
    try {
      await output.drained(id);
    } catch (cause) {
      log.error("the end of a run's output was not stored", { run: id, cause });
    }
  }

  async function reconcile(): Promise<void> {
    // As of before the question: what begins meanwhile is not missed.
    const running = [...lives.all()].filter(({ phase }) => phase === "running");
    const waiting = spares.waiting();
    const { runs } = await sandboxd.call("listRuns", {});
    const there = new Map(runs.map(({ run, state }) => [run, state]));
    for (const life of running) {
      if (!there.has(life.id)) await confirmLost(life);
      else if (!life.launched && there.get(life.id) === "running") await relaunch(life);
    }
    for (const id of waiting) if (!there.has(id)) spares.lost(id);
    for (const { run } of runs) {
      if (lives.get(run) === undefined && !spares.isSpare(run)) await removeStray(run);
    }
  }

  async function confirmLost(life: Life): Promise<void> {
    const { state } = await sandboxd.call("inspectRun", { run: life.id });
    if (state === "unknown" && life.phase === "running") await lives.end(life, await lostFate(life.id));
  }

  async function lostFate(id: RunId): Promise<RunFate> {
    const run = await rows.find(id);
    const rebooted = run?.bootId !== parts.bootId;
    return {
      exit_code: null,
      cause: "lost",
      fault: rebooted ? "host restarted" : "Its sandbox is gone, and nobody saw how it ended.",
      ended_at: Date.now(),
      peak_memory_bytes: null,
      cpu_ms: null,
    };
  }

  /** An api before this one was killed before it had, or soon after. */
  async function relaunch(life: Life): Promise<void> {
    life.launched = true;
    try {
      output.attach(life.id);
      await parts.relaunch(life.id);
    } catch (cause) {
      // Its end, if that is why, is seen as any other's.
      log.warn("a run was not told again what to start", { run: life.id, cause });
    }
  }

  async function removeStray(run: RunId): Promise<void> {
    log.warn("a sandbox without a run is removed", { run });
    await sandboxd.call("stopRun", { run });
    await sandboxd.call("forgetRun", { run });
  }

  return {
    /** Until api stops. */
    async watch(): Promise<void> {
      let compared = -Infinity;
      while (!signal.aborted) {
        try {
          if (performance.now() - compared >= POLL_MS) {
            await reconcile();
            compared = performance.now();
          }
          const { ended } = await sandboxd.call("awaitEnds", { timeout_ms: POLL_MS });
          await Promise.all(ended.map(take));
          // Those that are being prepared stay among them for a moment.
          if (ended.some((id) => lives.get(id)?.phase === "preparing")) await pauseFor(RETRY_MS, signal);
        } catch (error) {
          if (signal.aborted) return;
          if (foreseen(error)?.code !== "unavailable")
            log.error("ends of runs are not seen", { cause: error });
          // Whatever happened while it was away is found by comparing.
          compared = -Infinity;
          await pauseFor(RETRY_MS, signal);
        }
      }
    },
  };
}

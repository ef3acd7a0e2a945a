import { setInterfaces } from "../../kernel/interface.ts";
import type { Log } from "../../log.ts";
import { explain, OperationError } from "../../protocol/lines/failure.ts";
import type { Firewall } from "./firewall.ts";

/** Of what is amiss so many are named: after a flush it is everything. */
const NAMED = 3;

export interface Watch {
  /**
   * Looks whether the walls stand. While they don't, or nobody can tell, no run's pair carries anything: the host's ends
   * are down until they stand again. Looks don't overlap, and none rejects.
   */
  look(): Promise<void>;
  /** At a start: a sandboxd before this one may have taken them down. */
  open(): void;
  /** Nobody can tell whether the walls stand: shuts, and says why. Never throws. */
  fail(error: unknown): void;
  /** What may fail for want of a run's pair, and then is to be tried again. */
  needingPairs<T>(work: () => Promise<T>): Promise<T>;
}

/**
 * Whoever is root may take rules away that he does not know of: a restart of nftables or of another firewall does. A run
 * that waits for that has its way to all that the host reaches until its walls are there again, so this is noticed soon,
 * and shut before it is mended: turning a pair off takes no program that could fail, hang or wait for its turn. The run
 * itself goes on, and its connections with it when they come back.
 */
export function createWatch({
  firewall,
  veths,
  log,
}: {
  readonly firewall: Pick<Firewall, "look" | "mend" | "reorder">;
  /** The host's ends of runs' pairs, whether they are known yet or not. */
  readonly veths: () => readonly string[];
  readonly log: Log;
}): Watch {
  const state = { looking: false, shut: false, shuts: 0, ahead: "", trouble: "" };

  function shut(): void {
    state.shut = true;
    state.shuts++;
    setInterfaces(veths(), "down");
  }

  function open(): void {
    state.shut = false;
    setInterfaces(veths(), "up");
  }

  function fail(error: unknown): void {
    try {
      shut();
      complain("runs' walls can't be looked at or mended; until they can, runs are cut off", error);
    } catch (second) {
      complain("runs' walls can't be looked at or mended, and runs are not cut off", second);
    }
  }

  /** Once, and not with every look that finds the same. */
  function complain(what: string, error: unknown): void {
    const why = explain(error);
    if (state.trouble === why) return;
    state.trouble = why;
    log.error(what, { why });
  }

  async function mend(faults: readonly string[]): Promise<void> {
    shut();
    await firewall.mend();
    const left = (await firewall.look())?.faults ?? [];
    if (left.length > 0) throw new Error(`after they were made anew, ${named(left)}`);
    open();
    log.warn("runs' walls were torn; runs were cut off until they stood again", {
      faults: faults.length,
      first: named(faults),
    });
  }

  async function putFirst(ahead: readonly string[]): Promise<void> {
    await firewall.reorder();
    const what = named(ahead);
    if (state.ahead === what) return;
    state.ahead = what;
    log.warn("others' rules were before runs' walls; the walls are the first again", { ahead: what });
  }

  async function look(): Promise<void> {
    const found = await firewall.look();
    if (found === null) return;
    if (found.faults.length > 0) await mend(found.faults);
    else if (found.ahead.length > 0) await putFirst(found.ahead);
    if (state.shut) open();
    state.trouble = "";
  }

  return {
    open,
    fail,

    async needingPairs(work) {
      const before = state.shut ? null : state.shuts;
      try {
        return await work();
      } catch (cause) {
        if (state.shuts === before) throw cause;
        throw new OperationError("unavailable", "runs are cut off until their walls stand", { cause });
      }
    },

    async look() {
      if (state.looking) return;
      state.looking = true;
      try {
        await look();
      } catch (error) {
        fail(error);
      } finally {
        state.looking = false;
      }
    },
  };
}

function named(rules: readonly string[]): string {
  return [...new Set(rules)].slice(0, NAMED).join("; ");
}

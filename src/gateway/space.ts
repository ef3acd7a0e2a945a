import type { RunId } from "../ids.ts";

export interface SpaceLimits {
  /** Of all runs together. */
  readonly all: number;
  readonly ofRun: number;
  /** What each run may hold whatever the others do. */
  readonly sure: number;
}

/** What one holder has of a run's part, until it is disposed of: whatever comes after that takes nothing any more. */
export interface Share extends Disposable {
  /** From now on it is so much; false when there is no room for that, and then it is what it was. Less always goes. */
  resize(bytes: number): boolean;
}

export type Space = ReturnType<typeof createSpace>;

/**
 * What is held of runs' requests and answers, over all of them: whoever keeps some of it in memory takes room for it first. So
 * nobody on the other side, however much it sends, makes the gateway grow beyond a bound, and no run takes what is others'.
 */
export function createSpace({ all, ofRun, sure }: SpaceLimits) {
  const taken = new Map<RunId, number>();
  let total = 0;

  const ofOne = (run: RunId) => taken.get(run) ?? 0;

  function fits(run: RunId, more: number): boolean {
    const own = ofOne(run) + more;
    return own <= ofRun && (total + more <= all || own <= sure);
  }

  function add(run: RunId, bytes: number): void {
    total += bytes;
    const now = ofOne(run) + bytes;
    if (now === 0) taken.delete(run);
    else taken.set(run, now);
  }

  return {
    share(run: RunId): Share {
      let own = 0;
      let isOver = false;
      const resize = (bytes: number) => {
        const more = bytes - own;
        if (more > 0 && (isOver || !fits(run, more))) return false;
        add(run, more);
        own = bytes;
        return true;
      };
      const dispose = () => {
        isOver = true;
        resize(0);
      };
      return { resize, [Symbol.dispose]: dispose };
    },
    /** Whether the run has more than half of what it may, so that it had better not begin to hold more. */
    isCrowded(run: RunId): boolean {
      const own = ofOne(run);
      return own > ofRun / 2 || (total > all / 2 && own > sure / 2);
    },
    get bytes() {
      return total;
    },
  };
}

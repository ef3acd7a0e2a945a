import { AppError } from "../errors.ts";
import type { RunId, WorkspaceId } from "../ids.ts";

export interface QueueLimits {
  /** Runs at once, of all workspaces and of one. */
  readonly live: number;
  readonly perWorkspace: number;
  /** Runs that wait, of all workspaces. */
  readonly queue: number;
}

interface Lane {
  /** What the workspace's policy leaves it, as its newest run has found it. */
  most: number;
  readonly live: Set<RunId>;
  readonly waiting: RunId[];
  /** Places that were given and not taken yet. */
  promised: number;
}

/** A place, to be entered, or given back at its end. */
export interface Reservation extends Disposable {
  /** Whether it may live as soon as it enters. */
  readonly atOnce: boolean;
  /** `admit` is called with the run when it may live, perhaps before this returns. */
  enter(run: RunId): void;
}

export type RunQueue = ReturnType<typeof createRunQueue>;

export interface QueueOptions {
  /** Whether no run that waits may live now. */
  readonly isClosed?: () => boolean;
  /** For tests. */
  readonly lookEveryMs?: number;
}

/** Between looks whether it is still closed. */
const LOOK_EVERY_MS = 1_000;

/**
 * Which runs may live now. Workspaces take turns; within one, first come, first served. A run that waits has been
 * promised to its caller, so nobody takes its place: instead one workspace may have at most half of the places when it
 * comes, and the other half is for the others.
 */
export function createRunQueue(
  limits: () => QueueLimits,
  admit: (run: RunId) => void,
  { isClosed = () => false, lookEveryMs = LOOK_EVERY_MS }: QueueOptions = {},
) {
  /** Its order is whose turn it is: one that was served goes to the end. */
  const lanes = new Map<WorkspaceId, Lane>();
  let live = 0;
  let waiting = 0;
  let promised = 0;
  let looking: NodeJS.Timeout | null = null;

  function laneOf(workspace: WorkspaceId): Lane {
    const known = lanes.get(workspace);
    if (known !== undefined) return known;
    const lane: Lane = { most: Infinity, live: new Set(), waiting: [], promised: 0 };
    lanes.set(workspace, lane);
    return lane;
  }

  function tidy(workspace: WorkspaceId, lane: Lane): void {
    if (lane.live.size + lane.waiting.length + lane.promised === 0) lanes.delete(workspace);
  }

  function hasRoom({ most, live: own }: Lane): boolean {
    return own.size < Math.min(most, limits().perWorkspace);
  }

  function next(): void {
    if (isClosed()) return lookAgain();
    while (waiting > 0 && live < limits().live) {
      const found = lanes.entries().find(([, lane]) => lane.waiting.length > 0 && hasRoom(lane));
      if (found === undefined) return;
      const [workspace, lane] = found;
      const run = lane.waiting.shift();
      if (run === undefined) return;
      waiting -= 1;
      take(workspace, lane, run);
      admit(run);
    }
  }

  function lookAgain(): void {
    if (waiting === 0 || looking !== null) return;
    const look = (): void => {
      looking = null;
      next();
    };
    looking = setTimeout(look, lookEveryMs);
    looking.unref();
  }

  function enter(workspace: WorkspaceId, lane: Lane, run: RunId): void {
    // It may have been tidied away meanwhile.
    if (!lanes.has(workspace)) lanes.set(workspace, lane);
    lane.waiting.push(run);
    waiting += 1;
    next();
  }

  function take(workspace: WorkspaceId, lane: Lane, run: RunId): void {
    lane.live.add(run);
    live += 1;
    lanes.delete(workspace);
    lanes.set(workspace, lane);
  }

  return {
    /** A place for one more of this workspace's, to live at once or later. Throws AppError busy when there is none. */
    reserve(workspace: WorkspaceId, most: number | null): Reservation {
      if (most === 0) throw new AppError("forbidden", "The workspace's policy lets it have no runs.");
      const { queue, live: all } = limits();
      const lane = laneOf(workspace);
      lane.most = most ?? Infinity;
      const room = Math.min(lane.most, limits().perWorkspace);
      const own = lane.waiting.length + lane.promised;
      const atOnce = waiting + promised === 0 && live < all && lane.live.size < room;
      const fits = waiting + promised < queue && own < Math.max(1, Math.ceil(queue / 2));
      if (!atOnce && !fits) {
        tidy(workspace, lane);
        throw busy();
      }
      lane.promised += 1;
      promised += 1;
      let open = true;
      const end = (): boolean => {
        if (!open) return false;
        open = false;
        lane.promised -= 1;
        promised -= 1;
        return true;
      };
      return {
        atOnce,
        enter(run) {
          if (end()) enter(workspace, lane, run);
        },
        [Symbol.dispose]() {
          if (end()) tidy(workspace, lane);
        },
      };
    },

    /** One that waits for nobody, and may be one more than there may be. */
    enterAtOnce(workspace: WorkspaceId, run: RunId): void {
      take(workspace, laneOf(workspace), run);
      admit(run);
    },

    /** One that has its place already, from before a restart: it waits. */
    waits(workspace: WorkspaceId, run: RunId, most: number | null): void {
      const lane = laneOf(workspace);
      lane.most = most ?? Infinity;
      enter(workspace, lane, run);
    },

    /** The same of one that lives. */
    lives(workspace: WorkspaceId, run: RunId): void {
      take(workspace, laneOf(workspace), run);
    },

    /** It is over, or waits no more. */
    leave(workspace: WorkspaceId, run: RunId): void {
      const lane = lanes.get(workspace);
      if (lane === undefined) return;
      const place = lane.waiting.indexOf(run);
      if (place !== -1) {
        lane.waiting.splice(place, 1);
        waiting -= 1;
      } else if (lane.live.delete(run)) live -= 1;
      tidy(workspace, lane);
      next();
    },

    /** Limits have changed. */
    reload: next,

    stats: () => ({ live, waiting }),
  };
}

function busy(): AppError {
  return new AppError("busy", "Too many runs are waiting. Try again when some have ended.", {
    retryAfterS: 10,
  });
}

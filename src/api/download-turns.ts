import { AppError } from "../errors.ts";
import { createAdmission, type AdmissionLimits } from "../sandbox/admission.ts";

export interface DownloadTurnsParts {
  readonly limits: AdmissionLimits;
  /** Who takes less than this, while others wait, loses its place. */
  readonly bytesPerSecond: number;
  /** How long it is looked at before that. */
  readonly windowMs: number;
}

export interface DownloadTurn {
  /** Aborted when the place goes to another. */
  readonly signal: AbortSignal;
  /** To be told of what the client has taken. */
  readonly took: (bytes: number) => void;
  readonly release: () => void;
}

interface Running {
  readonly controller: AbortController;
  since: number;
  bytes: number;
}

/** Places for long downloads. A client that takes next to nothing keeps its place for as long as nobody else wants one. */
export function createDownloadTurns({ limits, bytesPerSecond, windowMs }: DownloadTurnsParts) {
  const admission = createAdmission(() => limits);
  const running = new Set<Running>();
  let looking: Timer | undefined;

  /** The slowest goes, one at a time: those that wait may not be many. */
  function look(): void {
    const { waiting } = admission.stats();
    if (waiting === 0) {
      clearInterval(looking);
      looking = undefined;
      return;
    }
    const now = performance.now();
    let slowest: { one: Running; pace: number } | undefined;
    for (const one of running) {
      const ms = now - one.since;
      if (ms < windowMs) continue;
      const pace = (one.bytes * 1000) / ms;
      // One that keeps up begins anew, so that what it took long ago does not count for ever.
      if (pace >= bytesPerSecond) Object.assign(one, { since: now, bytes: 0 });
      else if (pace < (slowest?.pace ?? Infinity)) slowest = { one, pace };
    }
    slowest?.one.controller.abort(tooSlow());
  }

  return {
    async admit(owner: string, signal: AbortSignal): Promise<DownloadTurn> {
      const admitted = admission.admit(owner, signal);
      if (admission.stats().waiting > 0) looking ??= setInterval(look, windowMs / 4).unref();
      const release = await admitted;
      const one: Running = { controller: new AbortController(), since: performance.now(), bytes: 0 };
      running.add(one);
      return {
        signal: one.controller.signal,
        took: (bytes) => void (one.bytes += bytes),
        release() {
          running.delete(one);
          release();
        },
      };
    },
  };
}

/** The connection breaks, so nobody reads it but the log. */
function tooSlow(): AppError {
  return new AppError("busy", "The download was too slow while others waited for their turn.", {
    retryAfterS: 1,
  });
}

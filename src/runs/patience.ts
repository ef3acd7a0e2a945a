import { foreseen } from "../errors.ts";

export interface PatienceOptions {
  /** How long it is tried again. */
  readonly forMs: number;
  /** Ends that at once. */
  readonly signal: AbortSignal;
}

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2_000;

/** What passes by itself. */
const PASSING: ReadonlySet<string> = new Set(["unavailable", "busy"]);

/** Does it again while what it needs is away, or has too much to do: another role that is being restarted, say. */
export async function patiently<T>(work: () => Promise<T>, { forMs, signal }: PatienceOptions): Promise<T> {
  const until = performance.now() + forMs;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(LONGEST_PAUSE_MS, pause * 2)) {
    signal.throwIfAborted();
    try {
      return await work();
    } catch (error) {
      const passes = PASSING.has(foreseen(error)?.code ?? "");
      if (!passes || performance.now() + pause > until) throw error;
      await pauseFor(pause, signal);
    }
  }
}

/** Returns early with the signal. */
export async function pauseFor(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
}

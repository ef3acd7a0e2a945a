import type { Log } from "../log.ts";

/** Work that comes back again and again. What fails is logged, and tried again at its next turn. */
export function createChores(log: Pick<Log, "error">) {
  const timers: Timer[] = [];
  const run = (failed: string, work: () => Promise<void>): void =>
    void work().catch((error: unknown) => log.error(`${failed}; it is tried again`, { cause: error }));

  return {
    every(ms: number, failed: string, work: () => Promise<void>): void {
      timers.push(setInterval(() => run(failed, work), ms));
    },

    nowAndEvery(ms: number, failed: string, work: () => Promise<void>): void {
      run(failed, work);
      timers.push(setInterval(() => run(failed, work), ms));
    },

    stop(): void {
      for (const timer of timers) clearInterval(timer);
    },
  };
}

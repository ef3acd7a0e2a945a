export type Changes = ReturnType<typeof createChanges>;

/** A number that grows with every change, and those who wait for the next one. */
export function createChanges() {
  const waiting = new Set<() => void>();
  let version = 0;

  return {
    version: (): number => version,

    tell(): void {
      version += 1;
      for (const wake of waiting) wake();
    },

    /** Resolves once the version is not that one any more, or after so long, or with the signal. */
    async changed(seen: number, waitMs: number, signal: AbortSignal): Promise<void> {
      if (version !== seen || signal.aborted) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      const wake = (): void => resolve();
      const timer = setTimeout(wake, waitMs);
      waiting.add(wake);
      signal.addEventListener("abort", wake);
      await promise;
      clearTimeout(timer);
      waiting.delete(wake);
      signal.removeEventListener("abort", wake);
    },
  };
}

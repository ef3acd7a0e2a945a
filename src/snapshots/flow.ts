/** Work that goes on beside what starts it, so many pieces at once. The first failure is the failure of all. */
export function createFlow(atOnce: number) {
  const running = new Set<Promise<void>>();
  let failure: { readonly error: unknown } | undefined;

  async function perform(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      failure ??= { error };
    }
  }

  const check = (): void => {
    if (failure !== undefined) throw failure.error;
  };

  async function room(): Promise<void> {
    while (running.size >= atOnce) await Promise.race(running);
    check();
  }

  return {
    /** Await what it returns, if anything, before the next: as many as may be are under way. Throws what failed. */
    start(work: () => Promise<void>): Promise<void> | undefined {
      check();
      const piece = perform(work);
      running.add(piece);
      void piece.finally(() => running.delete(piece));
      return running.size < atOnce ? undefined : room();
    },

    /** Resolves when all that was started is done. */
    async end(): Promise<void> {
      await Promise.all(running);
      check();
    },
  };
}

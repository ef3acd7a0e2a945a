/** Work that takes turns within a key and runs freely beside other keys'. */
export function createTurns() {
  const last = new Map<string, Promise<unknown>>();

  async function inTurn<T>(before: Promise<unknown> | undefined, work: () => Promise<T>): Promise<T> {
    // How the one before ended is its own caller's to know.
    await before?.catch(() => {});
    return await work();
  }

  return {
    async run<T>(key: string, work: () => Promise<T>): Promise<T> {
      const turn = inTurn(last.get(key), work);
      last.set(key, turn);
      try {
        return await turn;
      } finally {
        if (last.get(key) === turn) last.delete(key);
      }
    },
  };
}

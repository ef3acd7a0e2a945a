/** Lets so many pieces of work run at once; others wait, first come, first served. */
export function createGate(limit: number): <T>(work: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = [];
  let running = 0;
  return async (work) => {
    if (running < limit) running++;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await work();
    } finally {
      // The place is handed on, so that nobody who comes just now takes it.
      const next = waiting.shift();
      if (next === undefined) running--;
      else next();
    }
  };
}

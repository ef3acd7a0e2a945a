/** One end of a connection: all that a pipe needs of Bun's sockets. */
export interface End {
  write(bytes: Uint8Array): number;
  pause(): void;
  resume(): void;
  shutdown(): void;
}

/**
 * Carries bytes one way: what the far end does not take waits here, and the near one is not read meanwhile. `hold` is told how
 * much that is; when it says no, `send` does, and there is no more of it.
 */
export function createPipe(from: End, to: End, hold: (bytes: number) => boolean) {
  let waiting: Buffer = Buffer.alloc(0);
  let ended = false;

  function flush(): void {
    if (waiting.length > 0) {
      const taken = Math.max(0, to.write(waiting));
      waiting = waiting.subarray(taken);
      if (waiting.length === 0) hold(0);
      if (waiting.length > 0) return;
      if (!ended) from.resume();
    }
    if (ended) to.shutdown();
  }

  return {
    send(chunk: Buffer): boolean {
      if (chunk.length === 0 || ended) return true;
      const taken = waiting.length > 0 ? 0 : Math.max(0, to.write(chunk));
      if (taken === chunk.length) return true;
      if (!hold(waiting.length + chunk.length - taken)) return false;
      // A copy: the caller's memory is used again.
      waiting = Buffer.concat([waiting, chunk.subarray(taken)]);
      from.pause();
      return true;
    },
    /** The far end takes more. */
    drain(): void {
      if (waiting.length > 0) flush();
    },
    /** The near end sends no more. */
    end(): void {
      if (ended) return;
      ended = true;
      if (waiting.length === 0) to.shutdown();
    },
    isDone: () => ended && waiting.length === 0,
  };
}

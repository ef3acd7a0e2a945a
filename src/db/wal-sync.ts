import { closeSync, fdatasync, openSync } from "node:fs";

/**
 * Makes what was committed durable, off the event loop: SQLite in WAL mode appends commits to one file, and with
 * synchronous=NORMAL leaves it to others to flush that before it matters. Calls that come while a flush is under way
 * share the next one.
 */
export function createWalSync(file: string) {
  // It exists once the database was written to, and stays the same file until the last connection closes.
  const fd = openSync(`${file}-wal`, "r");
  let running: Promise<void> | null = null;
  let next: Promise<void> | null = null;

  function flush(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    fdatasync(fd, (error) => (error ? reject(error) : resolve()));
    running = promise.finally(() => (running = null));
    return running;
  }

  return {
    /** Resolves when a flush that began after this call has ended. */
    sync(): Promise<void> {
      if (running === null) return flush();
      next ??= running.then(() => {
        next = null;
        return flush();
      });
      return next;
    },

    /** The flush under way, if there is one; it never rejects. */
    running: async (): Promise<void> => running?.catch(() => {}),

    close: () => closeSync(fd),
  };
}

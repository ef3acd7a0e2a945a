import { closeSync, read } from "node:fs";
import { promisify } from "node:util";
import { cString, NR, syscall } from "./libc.ts";

const IN_CLOEXEC = 0o2000000;
const IN_MODIFY = 2;
/** Some thousand events. Those that are the same as the one before are one, and of too many the kernel keeps no more. */
const BUFFER_BYTES = 64 * 1024;

const readAsync = promisify(read);

/**
 * Tells when somebody has written to one of the files that are open here: FIFOs mostly, and without reading from them,
 * which is all that the event loop itself could do. inotify(7), on one thread of those that read files.
 */
export function createWriteWatch() {
  const inotify = syscall("inotify_init1", NR.inotify_init1, IN_CLOEXEC);
  const watches = new Map<number, number>();
  const buffer = Buffer.from(new ArrayBuffer(BUFFER_BYTES));

  return {
    add(fd: number): void {
      // The descriptor's own file, whatever has its name by now.
      const path = cString(`/proc/self/fd/${fd}`);
      watches.set(fd, syscall("inotify_add_watch", NR.inotify_add_watch, inotify, path, IN_MODIFY));
    },

    /** Before it is closed. Whoever waits is woken. */
    remove(fd: number): void {
      const watch = watches.get(fd);
      if (watch === undefined) return;
      watches.delete(fd);
      syscall("inotify_rm_watch", NR.inotify_rm_watch, inotify, watch);
    },

    /** Resolves when there was a write since the last time, or a removal. One call at a time. */
    async next(): Promise<void> {
      await readAsync(inotify, buffer, 0, BUFFER_BYTES, null);
    },

    /** While nobody waits. */
    close: () => closeSync(inotify),
  };
}

import { dlopen, FFIType } from "bun:ffi";
import { setTimeout } from "node:timers/promises";
import { cString, KernelError } from "./libc.ts";

/** How soon the end is noticed. A flush takes milliseconds to seconds. */
const POLL_MS = 1;
const EBUSY = 16;
const EIO = 5;

const { i32, u64, ptr } = FFIType;

function load() {
  const { symbols } = dlopen("libc.so.6", {
    dlsym: { args: [ptr, ptr], returns: u64 },
    pthread_create: { args: [ptr, ptr, u64, u64], returns: i32 },
    pthread_tryjoin_np: { args: [u64, ptr], returns: i32 },
  });
  return { ...symbols, syncfs: symbols.dlsym(null, cString("syncfs")) };
}

/** The first call loads libc. */
const loaded: { libc?: ReturnType<typeof load> } = {};

/**
 * Writes all that is unwritten on the file system that `fd` is on to its disk: for many files at once, where an fsync of
 * each takes twenty times as long. It waits for the disk, so it runs on a thread of its own. Bun has no such call,
 * and a worker of Bun's would be another JavaScript heap; a thread of libc's may begin in any function of one argument.
 */
export async function syncFileSystem(fd: number): Promise<void> {
  const libc = (loaded.libc ??= load());
  const thread = new BigUint64Array(1);
  const result = new Int32Array(2);
  const failed = libc.pthread_create(thread, null, libc.syncfs, BigInt(fd));
  if (failed !== 0) throw new KernelError("pthread_create", failed);
  const [id = 0n] = thread;
  while (libc.pthread_tryjoin_np(id, result) === EBUSY) await setTimeout(POLL_MS);
  // errno was that thread's. What a disk fails with is EIO.
  if (result[0] !== 0) throw new KernelError("syncfs", EIO);
}

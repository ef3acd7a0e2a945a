import { ptr } from "bun:ffi";
import { cString, NR, syscall } from "./libc.ts";

const CLOSE_RANGE_CLOEXEC = 4;
const MAX_FD = 0xffffffff;

/**
 * Becomes another program, with the calling thread's identity and confinement for all of it. Descriptors from
 * `closeFrom` on are closed. Returns only by throwing.
 */
export function execve(
  path: string,
  argv: readonly string[],
  env: Readonly<Record<string, string>>,
  closeFrom: number,
): never {
  // Copies of every string, held here until the call.
  const argumentStrings = argv.map(cString);
  const environmentStrings = Object.entries(env).map(([name, value]) => cString(`${name}=${value}`));
  const pathString = cString(path);
  syscall("close_range", NR.close_range, closeFrom, MAX_FD, CLOSE_RANGE_CLOEXEC);
  syscall(
    "execve",
    NR.execve,
    pathString,
    pointers(argumentStrings),
    pointers(environmentStrings),
    0,
    0,
    0,
    path,
  );
  throw new Error("execve returned");
}

function pointers(strings: readonly Uint8Array[]): BigUint64Array {
  return BigUint64Array.from([...strings.map((string) => BigInt(ptr(string))), 0n]);
}

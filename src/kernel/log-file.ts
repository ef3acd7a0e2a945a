import { closeSync, fstatSync, openSync, renameSync, writeSync } from "node:fs";
import { AppError } from "../errors.ts";
import type { Sink } from "./stderr.ts";

const MAX_BYTES = 64 * 1024 * 1024;

/** Appends to a file. When that is full it becomes FILE.1, in place of the one before, and a new one is begun. */
export function openLogFile(path: string, maxBytes = MAX_BYTES): Sink {
  const open = () => openSync(path, "a", 0o600);
  let fd: number;
  try {
    fd = open();
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new AppError("unavailable", `The log cannot be written to ${path}: ${why}`, { cause: error });
  }
  let size = fstatSync(fd).size;
  return (bytes) => {
    if (size > 0 && size + bytes.length > maxBytes) {
      renameSync(path, `${path}.1`);
      const full = fd;
      fd = open();
      closeSync(full);
      size = 0;
    }
    const written = writeSync(fd, bytes);
    size += written;
    return written;
  };
}

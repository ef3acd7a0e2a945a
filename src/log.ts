import { writeSync } from "node:fs";

type Fields = Readonly<Record<string, unknown>>;

/** Structured lines on stderr. Messages are constant text; what varies goes into fields. Never log a key or a command. */
export interface Log {
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
}

const STDERR = 2;

/** `role` is in every line. `write` is for tests. */
export function createLog(role: string, write: (line: string) => void = writeStderr): Log {
  const line =
    (level: string) =>
    (message: string, fields: Fields = {}) => {
      const time = new Date().toISOString();
      const text = (fields: Fields) =>
        `${JSON.stringify({ time, level, role, message, ...fields }, plain)}\n`;
      try {
        write(text(fields));
      } catch {
        // A cycle, or a getter that throws: never worth an exception in the caller.
        write(text({ fields: "unprintable" }));
      }
    };
  return { info: line("info"), warn: line("warn"), error: line("error") };
}

/** A full or closed stderr must not stop the service: the line is lost. */
function writeStderr(line: string): void {
  try {
    writeSync(STDERR, line);
  } catch {}
}

/** Errors have no own enumerable fields, bigints no JSON. */
function plain(_key: string, value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (!(value instanceof Error)) return value;
  const cause = value.cause === undefined ? {} : { cause: value.cause };
  return { name: value.name, message: value.message, stack: value.stack, ...cause };
}

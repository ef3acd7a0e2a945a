type Fields = Readonly<Record<string, unknown>>;

/** Structured lines on stderr. Messages are constant text; what varies goes into fields. Never log a key or a command. */
export interface Log {
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
}

/** `role` is in every line. What is `urgent` should be written before the process can end. */
export function createLog(role: string, write: (line: string, urgent: boolean) => void): Log {
  const line = (level: string, urgent: boolean) => {
    const start = `,"level":"${level}","role":${JSON.stringify(role)},`;
    return (message: string, fields: Fields = {}) => {
      // By hand: a replacer, which unusual values need, would make each line three times as dear.
      const text = (rest: string) =>
        withoutSecrets(
          `{"time":"${new Date().toISOString()}"${start}"message":${JSON.stringify(message)}${rest}\n`,
        );
      write(text(printed(fields)), urgent);
    };
  };
  return { info: line("info", false), warn: line("warn", true), error: line("error", true) };
}

/** The fields as the end of a JSON object. */
function printed(fields: Fields): string {
  try {
    const json = Object.values(fields).every(isPlain)
      ? JSON.stringify(fields)
      : JSON.stringify(fields, printable);
    return json === "{}" ? "}" : `,${json.slice(1)}`;
  } catch {
    // A cycle, or a getter that throws: never worth an exception in the caller.
    return `,"fields":"unprintable"}`;
  }
}

function isPlain(value: unknown): boolean {
  return value === null || (typeof value !== "object" && typeof value !== "bigint");
}

/** Errors have no own enumerable fields, bigints no JSON. */
function printable(_key: string, value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (!(value instanceof Error)) return value;
  const cause = value.cause === undefined ? {} : { cause: value.cause };
  return { name: value.name, message: value.message, stack: value.stack, ...cause };
}

/** API keys, signing secrets and runs' tokens, past the few characters by which lists show them. */
const SECRET = /(trove-sk-(?:admin-)?[A-Za-z0-9]{5}|whsec_|sk-ant-)[A-Za-z0-9+/=_-]{8,}/g;

const HINTS = ["trove-sk-", "whsec_", "sk-ant-"];

/** Nothing here logs one knowingly, but a client may put its key where a name belongs, and an error may quote it. */
export function withoutSecrets(line: string): string {
  return HINTS.some((hint) => line.includes(hint)) ? line.replace(SECRET, "$1[redacted]") : line;
}

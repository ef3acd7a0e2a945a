import { AppError } from "../errors.ts";

/** One sentence for everything that no call takes as a path, so that an answer tells nothing about the disk. */
const REFUSED =
  "This path can't be used: give it as workspace/dir/file, without .., //, backslashes, control characters, names over " +
  "255 bytes, more than 4096 bytes in all, or links that lead out of the workspace.";

const MAX_PATH_BYTES = 4096;
const MAX_NAME_BYTES = 255;

/** `/workspace/` and `/` around the longest, and room for every `.` that means nothing. */
const MAX_INPUT_LENGTH = 4 * MAX_PATH_BYTES;

/** A file or directory of a namespace, as text that is safe to hand to openat2 beneath the namespace's directory. */
export interface WorkspacePath {
  /** What every answer says: `workspace/a/b`, `workspace` for the directory itself. */
  readonly text: string;
  /** `a/b`; empty for the workspace itself. */
  readonly inner: string;
  readonly names: readonly string[];
  /** A slash at the end says that a directory is meant. */
  readonly directory: boolean;
}

export function refusedPath(cause?: unknown): AppError {
  return new AppError("bad_input", REFUSED, { cause });
}

/**
 * The one reading of a path, for bodies, queries and URLs alike. `workspace/a`, `a` and `/workspace/a` are the same
 * file, and a `.` means nothing. Percent signs are ordinary characters here: a URL's path was decoded once before.
 */
export function parsePath(input: string, maxBytes: number = MAX_PATH_BYTES): WorkspacePath {
  // First: what follows would keep the event loop for seconds over the megabytes that a body can hold.
  if (input.length > MAX_INPUT_LENGTH) throw refusedPath();
  // Lone surrogates would reach the disk as U+FFFD: another name than the caller's.
  if (!input.isWellFormed() || /[\p{Cc}\\]/u.test(input) || hidesParent(input)) throw refusedPath();
  const segments = input.split("/");
  if (segments[0] === "" && segments.length > 1) {
    if (segments[1] !== "workspace") throw refusedPath();
    segments.shift();
  }
  const last = segments.at(-1);
  if (last === "") segments.pop();
  // Once a client has taken off `workspace/`, as the SDK does, `workspace//etc` is `/etc`. And no URL may have one.
  if (segments.includes("")) throw refusedPath();

  const names = segments.filter((name) => name !== ".");
  if (names[0] === "workspace") names.shift();
  const inner = names.join("/");
  const text = inner === "" ? "workspace" : `workspace/${inner}`;
  const size = Buffer.byteLength(text);
  if (size > MAX_PATH_BYTES) throw refusedPath();
  if (size > maxBytes) throw new AppError("bad_input", `A path may have at most ${maxBytes} bytes here.`);
  if (names.some((name) => Buffer.byteLength(name) > MAX_NAME_BYTES)) throw refusedPath();
  return { text, inner, names, directory: names.length === 0 || last === "" || last === "." };
}

const STRAY_PERCENT = /%(?![0-9a-f]{2})/gi;

/**
 * The path of `/files/{path}` as a URL carries it, with its query, if any. The query belongs to the name, because
 * the call has none of its own and the SDK sends `what?.txt` unescaped: a file named `what` must not be replaced then.
 * Nor does it escape the sign in `100%`, so one that begins no escape stands for itself.
 */
export function parseUrlPath(encoded: string, maxBytes: number = MAX_PATH_BYTES): WorkspacePath {
  let decoded: string;
  try {
    decoded = decodeURIComponent(encoded.replaceAll(STRAY_PERCENT, "%25"));
  } catch (error) {
    throw refusedPath(error);
  }
  return parsePath(decoded, maxBytes);
}

/**
 * Whether a name is `..` however often it was percent-encoded, so that no proxy or client that decodes once more can
 * turn an accepted path into one that climbs.
 */
function hidesParent(input: string): boolean {
  let text = input;
  // Each round takes one level of encoding off; more levels than these are an attack, never a name.
  for (let round = 0; round < 8; round++) {
    if (/(^|[/\\])\.\.([/\\]|$)/.test(text)) return true;
    const decoded = text.replace(/%([0-9a-f]{2})/gi, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
    if (decoded === text) return false;
    text = decoded;
  }
  return true;
}

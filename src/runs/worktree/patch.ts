import { isUtf8 } from "node:buffer";
import { structuredPatch } from "diff";

/** A larger patch, or a patch of larger texts, is left out. */
export const PATCH_LIMITS = { textBytes: 256 * 1024, patchLength: 128 * 1024 };
/** What looking for the shortest patch may take; then it says that all lines between the first and the last change do. */
const SEARCH = { maxEditLength: 1000, timeoutMs: 20 };
const CONTEXT = 3;
/** Like git: a NUL so near the start makes it binary. */
const SNIFFED_BYTES = 8000;

export interface Side {
  /** As git has it: a kind and permissions. */
  readonly mode: string;
  readonly text: string;
}

export interface PatchOf {
  /** What may be taken of a whole diff's time for it, in milliseconds; what was taken is taken off. */
  readonly time: { leftMs: number };
  readonly from: string;
  readonly to: string;
  /** null: there is none. */
  readonly before: Side | null;
  readonly after: Side | null;
}

/** As `git diff` writes it, for `git apply` and `patch -p1`. Empty when nothing that a patch can say is different. */
export function patchOf({ from, to, before, after, time }: PatchOf): string {
  const [old, fresh] = [quoted(`a/${from}`), quoted(`b/${to}`)];
  const head = [`diff --git ${old} ${fresh}`];
  if (before === null) head.push(`new file mode ${after?.mode ?? ""}`);
  else if (after === null) head.push(`deleted file mode ${before.mode}`);
  else if (before.mode !== after.mode) head.push(`old mode ${before.mode}`, `new mode ${after.mode}`);
  if (from !== to) head.push(`rename from ${quoted(from)}`, `rename to ${quoted(to)}`);
  const lines = hunksOf(before?.text ?? "", after?.text ?? "", time);
  if (lines.length > 0) {
    head.push(`--- ${before === null ? "/dev/null" : ended(old)}`);
    head.push(`+++ ${after === null ? "/dev/null" : ended(fresh)}`);
  }
  return head.length === 1 && lines.length === 0 ? "" : `${[...head, ...lines].join("\n")}\n`;
}

function hunksOf(before: string, after: string, time: PatchOf["time"]): string[] {
  if (before === after) return [];
  return (shortest(before, after, time) ?? [replacing(before, after)]).flatMap(
    ({ oldStart, oldLines, newStart, newLines, lines }) => [
      `@@ -${range(oldStart, oldLines)} +${range(newStart, newLines)} @@`,
      ...lines,
    ],
  );
}

/** null when it would take too long. */
function shortest(before: string, after: string, time: PatchOf["time"]) {
  const { maxEditLength, timeoutMs } = SEARCH;
  if (before !== "" && after !== "" && time.leftMs <= 0) return null;
  const begun = performance.now();
  const timeout = Math.min(timeoutMs, Math.max(1, time.leftMs));
  const found = structuredPatch("", "", before, after, undefined, undefined, {
    context: CONTEXT,
    maxEditLength: before === "" || after === "" ? Infinity : maxEditLength,
    timeout,
  });
  time.leftMs -= performance.now() - begun;
  return found?.hunks ?? null;
}

/** One hunk that takes out all old lines and puts in all new ones, but for what is the same at both ends. */
function replacing(before: string, after: string) {
  const [old, fresh] = [linesOf(before), linesOf(after)];
  let start = 0;
  while (start < old.length && start < fresh.length && old[start] === fresh[start]) start++;
  let end = 0;
  const most = Math.min(old.length, fresh.length) - start;
  while (end < most && old.at(-1 - end) === fresh.at(-1 - end)) end++;
  const kept = old.slice(Math.max(0, start - CONTEXT), start);
  const after3 = old.slice(old.length - end, old.length - end + CONTEXT);
  const gone = old.slice(start, old.length - end);
  const come = fresh.slice(start, fresh.length - end);
  const marked = (mark: string, lines: readonly string[]) => lines.flatMap((line) => withEnd(mark + line));
  const first = start - kept.length + 1;
  return {
    oldStart: first,
    oldLines: kept.length + gone.length + after3.length,
    newStart: first,
    newLines: kept.length + come.length + after3.length,
    lines: [...marked(" ", kept), ...marked("-", gone), ...marked("+", come), ...marked(" ", after3)],
  };
}

/** Each with its line's end, if it has one. */
function linesOf(text: string): string[] {
  return text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
}

function withEnd(line: string): string[] {
  return line.endsWith("\n") ? [line.slice(0, -1)] : [line, "\\ No newline at end of file"];
}

/** Of no lines, the one before them. */
function range(start: number, lines: number): string {
  return lines === 1 ? `${start}` : `${lines === 0 ? start - 1 : start},${lines}`;
}

/** As git quotes what would not be read back as it is. */
function quoted(path: string): string {
  // oxlint-disable-next-line no-control-regex
  if (!/["\\\u0000-\u001f\u007f]/.test(path)) return path;
  // oxlint-disable-next-line no-control-regex
  const escaped = path.replaceAll(/["\\\u0000-\u001f\u007f]/g, (character) => {
    if (character === '"' || character === "\\") return `\\${character}`;
    return `\\${character.charCodeAt(0).toString(8).padStart(3, "0")}`;
  });
  return `"${escaped}"`;
}

/** A name with a space is ended by a tab, or what reads it takes the rest for a time. */
function ended(path: string): string {
  return path.includes(" ") && !path.startsWith('"') ? `${path}\t` : path;
}

/** null for what is no text. */
export function textOf(bytes: Uint8Array): string | null {
  return isBinary(bytes) || !isUtf8(bytes) ? null : Buffer.from(bytes).toString();
}

export function isBinary(start: Uint8Array): boolean {
  return start.subarray(0, SNIFFED_BYTES).includes(0);
}

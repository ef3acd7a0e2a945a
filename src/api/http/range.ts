/** A part of a file, `start` to before `end`. */
export interface Part {
  readonly start: number;
  readonly end: number;
}

/**
 * What a Range header asks for of a file of `size` bytes (RFC 9110, 14.2). null: the whole, as for what is malformed,
 * of another unit, or more than one range, which a server may ignore.
 */
export function rangeOf(header: string | null, size: number): Part | "unsatisfiable" | null {
  const match = /^bytes=\s*(\d*)-(\d*)\s*$/i.exec(header ?? "");
  const first = match?.[1] ?? "";
  const last = match?.[2] ?? "";
  if (first === "" && last === "") return null;
  if (first === "") {
    const length = Math.min(Number(last), size);
    return length === 0 ? "unsatisfiable" : { start: size - length, end: size };
  }
  const start = Number(first);
  const end = last === "" ? size : Math.min(Number(last) + 1, size);
  if (last !== "" && Number(last) < start) return null;
  return start >= size ? "unsatisfiable" : { start, end };
}

/** Whether an If-None-Match or If-Range header names this entity tag. */
export function namesTag(header: string, tag: string): boolean {
  return header.split(",").some((each) => {
    const trimmed = each.trim();
    return trimmed === "*" || trimmed.replace(/^W\//, "") === tag;
  });
}

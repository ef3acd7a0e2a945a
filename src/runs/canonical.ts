/**
 * JSON in the one form that RFC 8785 gives it: names sorted by their UTF-16 units, no white space, strings and numbers
 * as ECMAScript writes them. Throws for what has none: half a surrogate pair, and a number that is no number.
 */
export function canonicalize(value: unknown): string {
  if (typeof value === "string") {
    if (!value.isWellFormed()) throw new TypeError("half a surrogate pair has no canonical form");
    return JSON.stringify(value);
  }
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new TypeError(`${value} has no canonical form`);
  }
  if (value === null || typeof value === "number" || typeof value === "boolean") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((one: unknown) => canonicalize(one)).join(",")}]`;
  if (typeof value !== "object") throw new TypeError(`${typeof value} is no JSON`);
  // Neither name is ever the other.
  const fields = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return `{${fields.map(([name, field]) => `${canonicalize(name)}:${canonicalize(field)}`).join(",")}}`;
}

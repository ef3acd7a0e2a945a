/** What four digits of a year can say, in seconds since 1970; a tenant may set any time. */
const EARLIEST_S = BigInt(Date.parse("0001-01-01T00:00:00Z") / 1000);
const LATEST_S = BigInt(Date.parse("9999-12-31T23:59:59Z") / 1000);
const NS = 1_000_000_000n;

/** Nanoseconds since 1970 as `2026-01-02T03:04:05.678901Z`: of one width, so that texts sort as times do. */
export function isoTime(ns: bigint): string {
  const within = ((ns % NS) + NS) % NS;
  const seconds = (ns - within) / NS;
  const clamped = seconds < EARLIEST_S ? EARLIEST_S : seconds > LATEST_S ? LATEST_S : seconds;
  const date = new Date(Number(clamped) * 1000).toISOString().slice(0, 19);
  return `${date}.${(within / 1000n).toString().padStart(6, "0")}Z`;
}

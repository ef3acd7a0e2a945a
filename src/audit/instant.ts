/** A date, and a time of day with seconds, fraction and zone as far as they are there. UTC where no zone is. */
const ISO_8601 =
  /^(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?(?:([Zz])|([+-])(\d\d):?(\d\d))?)?$/;

const MINUTE_MS = 60_000;

/**
 * Microseconds since 1970 of an ISO 8601 time; null for anything else. What is finer than a microsecond is cut off,
 * which changes nothing about which events are after it.
 */
export function parseInstant(text: string): number | null {
  const parts = ISO_8601.exec(text);
  if (parts === null) return null;
  const [, date, time = "00:00", seconds = "00", fraction = "", , sign, hours = "00", minutes = "00"] = parts;
  const written = `${date}T${time}:${seconds}`;
  const ms = Date.parse(`${written}Z`);
  // The 30th of February is read as a day in March.
  if (Number.isNaN(ms) || !new Date(ms).toISOString().startsWith(written)) return null;
  if (Number(hours) > 23 || Number(minutes) > 59) return null;
  const offset = (Number(hours) * 60 + Number(minutes)) * MINUTE_MS * (sign === "-" ? -1 : 1);
  return (ms - offset) * 1000 + Number(fraction.padEnd(6, "0").slice(0, 6));
}

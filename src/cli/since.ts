import { AppError } from "../errors.ts";

const UNIT_MS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** "now" and "1h30m" as a time; a time as it is, since the api knows best what is one. */
export function sinceOf(text: string, now: number, option = "--since"): string {
  if (text === "now") return new Date(now).toISOString();
  if (/^\d{4}-/.test(text)) return text;
  if (!/^(\d{1,9}[smhd])+$/.test(text)) {
    throw new AppError(
      "bad_input",
      `${option} wants now, a time ago such as 5m or 1h30m, or a time such as 2026-11-26T20:18:51Z; "${text}" is neither.`,
    );
  }
  const parts = text.matchAll(/(\d+)([smhd])/g);
  const ago = parts.reduce((sum, [, count, unit = ""]) => sum + Number(count) * (UNIT_MS[unit] ?? 0), 0);
  return new Date(Math.max(0, now - ago)).toISOString();
}

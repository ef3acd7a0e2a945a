import { createHash } from "node:crypto";
import { z } from "zod";
import { parseInstant } from "../../audit/instant.ts";
import type { EventFilter } from "../../audit/reader.ts";
import { isKnownPattern, typesOf } from "../../audit/types.ts";
import { AppError } from "../../errors.ts";

const MAX_LIMIT = 1000;
const DEFAULT_LIMIT = 100;

const since = z.string().transform((text, context) => {
  // Where a client left the + of a zone as it is, it arrives as a space.
  const time = parseInstant(text.replace(/^(.{16,}) (\d\d:?\d\d)$/, "$1+$2"));
  if (time !== null) return time;
  context.addIssue("since has to be an ISO 8601 time, such as 2026-11-26T20:18:51.123456Z.");
  return z.NEVER;
});

const types = z.string().transform((text, context) => {
  const patterns = text.split(",").map((pattern) => pattern.trim());
  const slip = patterns.find((pattern) => !isKnownPattern(pattern));
  if (slip === undefined) return [...new Set(patterns.flatMap(typesOf))].toSorted();
  context.addIssue(
    slip === ""
      ? "types has to be event types parted by commas, such as file.written,exec.completed; leave it out for all."
      : `There is no event type ${JSON.stringify(slip.slice(0, 80))}; there are ${typesOf("*").join(", ")}.`,
  );
  return z.NEVER;
});

const limit = z.string().transform((text, context) => {
  const number = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (number >= 1 && number <= MAX_LIMIT) return number;
  context.addIssue(`limit has to be a whole number from 1 to ${MAX_LIMIT}.`);
  return z.NEVER;
});

/** `namespace` is in the query too; src/api/events/access.ts says what it comes to. */
export const streamQuery = z.object({ since: since.optional(), types: types.optional() });
export const pageQuery = streamQuery.extend({
  limit: limit.default(DEFAULT_LIMIT),
  cursor: z.string().optional(),
});

export function readQuery<S extends z.ZodType>(request: Request, schema: S): z.infer<S> {
  const given = new URL(request.url).searchParams;
  const names = [...given.keys()];
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new AppError("invalid", `${twice} is in the query twice; give it once.`);
  const result = schema.safeParse(Object.fromEntries(given));
  if (!result.success)
    throw new AppError("invalid", result.error.issues[0]?.message ?? "The query is wrong.");
  return result.data;
}

const CURSOR = /^1\.(\d{1,16})\.([0-9a-f]{16})$/;

/**
 * Where the next page goes on, for this filter alone. It gives no rights: which events there are at all is decided anew
 * for each page. `since` is no part of it, since clients often say it relative to now.
 */
export function cursorOf(filter: EventFilter, createdAt: number): string {
  return Buffer.from(`1.${createdAt}.${digestOf(filter)}`).toString("base64url");
}

/** The time that a cursor stands for. */
export function timeOfCursor(filter: EventFilter, cursor: string): number {
  const text = Buffer.from(cursor, "base64url").toString();
  const [, time, digest] = CURSOR.exec(text) ?? [];
  // The decoder skips what is not base64.
  if (time === undefined || Buffer.from(text).toString("base64url") !== cursor) {
    throw new AppError("invalid", "cursor has to be a next_cursor of an earlier answer, unchanged.");
  }
  if (digest !== digestOf(filter)) {
    throw new AppError(
      "invalid",
      "The cursor is of another query; repeat that one's workspace, namespace and types with it.",
    );
  }
  return Number(time);
}

function digestOf({ chain, namespace, types }: EventFilter): string {
  return createHash("sha256")
    .update(JSON.stringify([chain, namespace, types]))
    .digest("hex")
    .slice(0, 16);
}

import { z } from "zod";
import { printable } from "./printable.ts";

export const eventRow = z.looseObject({
  id: z.string(),
  type: z.string(),
  created_at: z.string(),
  namespace: z.string().nullable(),
  actor_key_id: z.string().nullable(),
  actor_local_user: z.string().nullish(),
  settled: z.boolean().optional(),
  data: z.record(z.string(), z.json()),
});
export type EventRow = z.infer<typeof eventRow>;

const VALUE_MAX = 48;

/** An event for a person: when, what, where, who, and what there is to know, each on its own. */
export function cellsOf(event: EventRow) {
  return {
    time: event.created_at.slice(0, 19).replace("T", " "),
    type: event.type,
    namespace: event.namespace ?? "-",
    by: event.actor_key_id ?? event.actor_local_user ?? "-",
    what: Object.entries(event.settled === true ? { ...event.data, settled: true } : event.data)
      .filter(([, value]) => value !== null)
      .map(([name, value]) => `${name}=${short(value)}`)
      .join(" "),
  };
}

function short(value: z.core.util.JSONType): string {
  const text = typeof value === "string" && /^[\w@%+=:,./-]+$/.test(value) ? value : JSON.stringify(value);
  const safe = printable(text);
  return safe.length > VALUE_MAX ? `${safe.slice(0, VALUE_MAX - 1)}…` : safe;
}

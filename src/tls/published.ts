import { z } from "zod";
import { readPublished } from "../config/published.ts";

/* api sees neither the operator's files nor /etc: root looks at them, judges, and publishes both together. */

const pair = z.object({ cert: z.string(), key: z.string() });
const published = z.object({
  /** Where they came from. */
  files: pair,
  /** The last that were good; null when none were since the machine was started. */
  pair: pair.nullable(),
  /** What is wrong with the files as they are now. */
  fault: z.string().nullable(),
});
export type Published = z.infer<typeof published>;

/** null when TLS is off, or nothing was published yet. */
export function readPublishedPair(path: string): Published | null {
  return readPublished(path, published);
}

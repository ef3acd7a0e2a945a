import { z } from "zod";
import { readPublished } from "../../config/published.ts";
import { AppError } from "../../errors.ts";
import type { ServerCredentials } from "./wire.ts";

/* api sees none of the operator's files: root reads what proves the two to each other, and publishes it for api alone. */

const published = z.object({
  /** What stood in the files when they were last good; null when they never were. */
  good: z.object({ token: z.string().nullable(), ca: z.string().nullable() }).nullable(),
  /** What is wrong with the files as they are now. */
  fault: z.string().nullable(),
});
export type PublishedServer = z.infer<typeof published>;

/** null when nothing was published. */
export function readPublishedServer(path: string): PublishedServer | null {
  return readPublished(path, published);
}

/** Throws a sentence when they are wrong. */
export function serverCredentials(path: string): ServerCredentials {
  const found = readPublishedServer(path);
  if (found?.fault != null) throw new AppError("invalid", found.fault);
  if (found?.good == null) throw new Error(`${path}: nothing was published for the database's server`);
  return found.good;
}

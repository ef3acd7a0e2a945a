import { readFileSync } from "node:fs";
import type { z } from "zod";

/**
 * What root published for a role, which sees none of the operator's files: src/instance/setup.ts wrote it whole. null when
 * nothing was published.
 */
export function readPublished<T>(path: string, schema: z.ZodType<T>): T | null {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  return schema.parse(JSON.parse(text));
}

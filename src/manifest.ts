import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "./errors.ts";

/** What build/all writes beside runsc and the root file system: what they are. */
const manifestSchema = z.object({
  version: z.string(),
  commit: z.string().nullable(),
  bun: z.string(),
  runsc: z.string(),
  rootfs: z.string().startsWith("sha256:"),
  /** Of run.erofs: the same, with agents. */
  run_rootfs: z.string().startsWith("sha256:"),
});

export type Manifest = z.infer<typeof manifestSchema>;

/** Null where there is no manifest: an executable on its own, or a run from source. */
export function readManifest(lib: string): Manifest | null {
  const file = join(lib, "manifest.json");
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  try {
    return manifestSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new AppError("internal", `${file} is damaged: run install.sh again`, { cause });
  }
}

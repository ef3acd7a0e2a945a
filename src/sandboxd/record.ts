import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { z } from "zod";
import { namespaceId, sandboxId } from "../ids.ts";
import type { SandboxNames } from "./names.ts";

/**
 * What a restarted sandboxd must know of a sandbox that lived on without it. Written before the step that it tells of,
 * so that a record never claims less than what is true: a sandbox whose record names a namespace may have had it.
 */
const recordSchema = z.strictObject({
  sandbox: sandboxId.schema,
  nonce: z.string().regex(/^[0-9a-f]{64}$/),
  /** `runsc run`, whose end is the sandbox's. */
  process: z.strictObject({ pid: z.int().min(1), startTime: z.int().min(0) }),
  startedAt: z.iso.datetime(),
  /** null while no tenant was ever attached. */
  namespace: namespaceId.schema.nullable(),
  /** What it was made from; a spare of another make is not used. */
  make: z.string(),
});

export type SandboxRecord = z.infer<typeof recordSchema>;

export function writeRecord({ record }: SandboxNames, content: SandboxRecord): void {
  const draft = `${record}.new`;
  mkdirSync(dirname(record), { recursive: true, mode: 0o700 });
  writeFileSync(draft, JSON.stringify(content), { mode: 0o600 });
  // No fsync: it lies in /run, and what it tells of ends with the boot too.
  renameSync(draft, record);
}

/** undefined when there is none that can be trusted: the boot was not finished. */
export function readRecord({ record, id }: SandboxNames): SandboxRecord | undefined {
  let text: string;
  try {
    text = readFileSync(record, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined;
  }
  const parsed = recordSchema.safeParse(json);
  return parsed.success && parsed.data.sandbox === id ? parsed.data : undefined;
}

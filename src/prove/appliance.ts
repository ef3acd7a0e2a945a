import type { z } from "zod";
import type { Config } from "../config/schema.ts";
import type { Instance } from "../instance/instance.ts";

/** The running api by its admin socket, as src/cli/appliance.ts has it: what is proven is the way that calls really go. */
export interface Appliance {
  readonly instance: Instance;
  call(path: string, call?: Call): Promise<Response>;
  ask<S extends z.ZodType>(schema: S, path: string, call?: Call): Promise<z.infer<S>>;
}

interface Call {
  readonly method?: "POST" | "PUT" | "DELETE";
  readonly headers?: Readonly<Record<string, string>>;
  readonly json?: unknown;
  readonly body?: Blob;
}

/** A workspace of the proof's own, so that nobody's events, quotas or policies are touched. */
export interface Place {
  readonly appliance: Appliance;
  readonly config: Config;
  readonly workspace: string;
  /** Names that are in nobody's use, and are found again whatever a proof before has left. */
  readonly tag: string;
}

import { z } from "zod";
import { egressGrant, gitGrant, llmGrant } from "../protocol/gateway.ts";

/** What a run may reach, as its row keeps it: what the gateway is told, less the sealed secrets. */
export const runGrants = z.strictObject({
  llm: z.array(llmGrant.omit({ sealed: true })),
  git: gitGrant.omit({ sealed: true }).nullable(),
  egress: egressGrant.nullable(),
  /** By NAT, past the gateway. */
  direct: z.array(z.strictObject({ address: z.ipv4(), port: z.int().min(1).max(65_535) })),
});
export type RunGrants = z.infer<typeof runGrants>;

export const runLimits = z.strictObject({
  timeout_s: z.int().min(1),
  memory_mb: z.int().min(1),
  cpus: z.number().min(0.01),
  pids: z.int().min(1),
  disk_mb: z.int().min(1),
});
export type RunLimits = z.infer<typeof runLimits>;

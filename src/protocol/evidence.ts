import { z } from "zod";
import { configSchema } from "../config/schema.ts";
import { runNetwork, runMake } from "./sandboxd.ts";

const llm = z
  .object({
    credential: z.string(),
    dialect: z.string(),
    base_url: z.string(),
    models: z.array(z.string()).nullable(),
    max_usd_nano: z.int().nullable(),
    max_output_tokens: z.int().nullable(),
    max_requests: z.int().nullable(),
  })
  .loose();
const git = z
  .object({
    credential: z.string(),
    git_url: z.string(),
    repositories: z.array(
      z.object({ name: z.string(), access: z.string(), branches: z.array(z.string()) }).loose(),
    ),
  })
  .loose();
const egress = z.object({ allow: z.array(z.object({ host: z.string(), port: z.int() })) }).loose();

/** What api knows of a run, for `cofferdam evidence`, which compares the host with it. */
export const runOnRecord = z.object({
  run_id: z.string(),
  workspace_id: z.string(),
  namespace: z.string(),
  status: z.string(),
  over: z.boolean(),
  exit_code: z.int().nullable(),
  error: z.string().nullable(),
  created_at: z.string(),
  started_at: z.string().nullable(),
  finished_at: z.string().nullable(),
  /** The variables that the request itself has set. */
  env: z.array(z.string()),
  grants: z.object({
    llm: z.array(llm),
    git: git.nullable(),
    egress: egress.nullable(),
    direct: z.array(z.object({ address: z.string(), port: z.int() })),
  }),
  used: z.object({
    llm: z
      .object({
        requests: z.int(),
        input_tokens: z.int(),
        output_tokens: z.int(),
        usd_nano: z.int(),
      })
      .loose(),
    git: z.object({ fetches: z.int(), pushes: z.int() }).loose(),
    egress: z.object({ connections: z.int(), bytes: z.int() }).loose(),
  }),
  limits: z.object({ memory_mb: z.int(), cpus: z.number(), pids: z.int(), timeout_s: z.int() }).loose(),
  /** What its sandbox was made of when it was booted; null before that. */
  sandbox: runMake.nullable(),
  network: runNetwork.nullable(),
  receipt: z.object({ payload: z.string(), signature: z.string(), key_id: z.string() }).nullable(),
  /** What is set for runs. */
  config: configSchema.shape.runs,
  /** What receipts are signed with. */
  key: z.object({ key_id: z.string(), public_key: z.string() }),
});
export type RunOnRecord = z.infer<typeof runOnRecord>;

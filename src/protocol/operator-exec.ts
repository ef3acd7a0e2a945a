import { z } from "zod";

/** `POST /admin/exec`: as /v1/exec, with bytes that need not be text. */
export const operatorExecRequest = z.strictObject({
  command: z.string(),
  stdin_base64: z.base64().optional(),
});

export const operatorExecResult = z.strictObject({
  exit_code: z.int(),
  stdout_base64: z.base64(),
  stderr_base64: z.base64(),
  duration_ms: z.number(),
  stdout_truncated: z.boolean(),
  stderr_truncated: z.boolean(),
  oom: z.boolean(),
});

import { Elysia } from "elysia";
import type { z } from "zod";
import { operatorExecRequest, type operatorExecResult } from "../../protocol/operator-exec.ts";
import { namespaceCalls } from "../auth.ts";
import { readJson } from "../http/body.ts";
import { execInTurn, type ExecRoutesParts } from "../exec.ts";

/** The operator's exec, on the admin socket: a terminal wants the bytes as they are. */
export function operatorExecRoutes({ access, ...parts }: ExecRoutesParts) {
  return new Elysia().use(namespaceCalls(access)).post(
    "/admin/exec",
    async ({ request, namespace }): Promise<z.infer<typeof operatorExecResult>> => {
      const { command, stdin_base64 } = await readJson(request, operatorExecRequest);
      const stdin = stdin_base64 === undefined ? undefined : Uint8Array.fromBase64(stdin_base64);
      const result = await execInTurn(parts, request, namespace, { command, stdin });
      return {
        exit_code: result.exitCode,
        stdout_base64: result.stdout.toBase64(),
        stderr_base64: result.stderr.toBase64(),
        duration_ms: result.durationMs,
        stdout_truncated: result.stdoutTruncated,
        stderr_truncated: result.stderrTruncated,
        oom: result.oom,
      };
    },
    { parse: "none" },
  );
}

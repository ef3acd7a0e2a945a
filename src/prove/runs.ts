import { z } from "zod";
import { PROOF_HEADER } from "../protocol/proof.ts";
import type { Place } from "./appliance.ts";

const started = z.object({ run_id: z.string() });
const shown = z.object({
  status: z.string(),
  exit_code: z.number().nullable(),
  error: z.string().nullable(),
});

const OVER = new Set(["succeeded", "failed", "cancelled", "timed_out", "budget_exhausted", "error"]);
const PATIENCE_MS = 45_000;
const LOOK_EVERY_MS = 50;

export interface ProofRun {
  readonly id: string;
  /** Once it has written a line that begins so, or is over. */
  line(start: string): Promise<string>;
  /** All that it wrote, once it is over. */
  output(): Promise<string>;
  /** How it ended, once it has. */
  end(): Promise<string>;
  /** Ends its stdin, unless a line is given. */
  tell(line?: object): Promise<void>;
  cancel(): Promise<void>;
}

/** Starts runs that begin also while others may not. */
export function createProofRuns({ appliance, workspace }: Pick<Place, "appliance" | "workspace">) {
  return async (namespace: string, request: object): Promise<ProofRun> => {
    const headers = { "x-workspace": workspace, "x-namespace": namespace };
    const { run_id: id } = await appliance.ask(started, "/v1/runs", {
      method: "POST",
      headers: { ...headers, [PROOF_HEADER]: "1" },
      json: request,
    });
    const path = `/v1/runs/${id}`;

    async function text(): Promise<string> {
      const response = await appliance.call(`${path}/logs`, {
        headers: { ...headers, accept: "text/plain" },
      });
      return response.text();
    }

    async function until<T>(look: () => Promise<T | null>, what: string): Promise<T> {
      const deadline = Date.now() + PATIENCE_MS;
      for (;;) {
        const found = await look();
        if (found !== null) return found;
        if (Date.now() > deadline) throw new Error(`run ${id} ${what} within ${PATIENCE_MS / 1000} s`);
        await Bun.sleep(LOOK_EVERY_MS);
      }
    }

    async function over(): Promise<z.infer<typeof shown> | null> {
      const run = await appliance.ask(shown, path, { headers });
      return OVER.has(run.status) ? run : null;
    }

    return {
      id,
      line: async (start) =>
        until(async () => {
          const all = await text();
          const found = all.split("\n").find((one) => one.startsWith(start));
          if (found !== undefined && all.includes(`${found}\n`)) return found;
          const end = await over();
          if (end === null) return null;
          throw new Error(`run ${id} ended as ${end.status}: ${end.error ?? all.slice(-300)}`);
        }, "wrote nothing"),
      async output() {
        const end = await until(over, "did not end");
        if (end.error !== null) throw new Error(`run ${id} ended as ${end.status}: ${end.error}`);
        return text();
      },
      end: async () => (await until(over, "did not end")).status,
      async tell(line) {
        const what = line === undefined ? "?eof=true" : "";
        const body = new Blob(line === undefined ? [] : [`${JSON.stringify(line)}\n`]);
        await appliance.call(`${path}/stdin${what}`, { method: "POST", headers, body });
      },
      async cancel() {
        await appliance.ask(z.unknown(), `${path}/cancel`, { method: "POST", headers });
        await until(over, "did not end");
      },
    };
  };
}

import type { Log } from "../log.ts";
import { MAX_ANSWER_BYTES, operations } from "../protocol/gateway.ts";
import { createLineClient, type LineClient, type Service } from "../protocol/lines/client.ts";

export type GatewayClient = LineClient<typeof operations>;

const SERVICE: Service<typeof operations> = {
  name: "gateway",
  operations,
  maxAnswerBytes: MAX_ANSWER_BYTES,
  deadlineMs: {
    health: 5_000,
    status: 5_000,
    publicKey: 5_000,
    grant: 10_000,
    // A run's git tokens are given back before it answers.
    revoke: 30_000,
    granted: 5_000,
    // Longer than it is ever asked to wait.
    records: 70_000,
    forget: 5_000,
  },
  away: "The gateway is not answering. Try again in a moment.",
  failed: "The gateway could not do it. The server's log says why.",
  refused: "The server asked for something that its gateway does not do.",
};

/** api's end of the gateway's socket. */
export function createGatewayClient({ path, log }: { path: string; log: Log }): GatewayClient {
  return createLineClient({ path, service: SERVICE, log });
}

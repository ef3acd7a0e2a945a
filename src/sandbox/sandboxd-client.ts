import type { Log } from "../log.ts";
import { createLineClient, type LineClient, type Service } from "../protocol/lines/client.ts";
import { MAX_ANSWER_BYTES, operations } from "../protocol/sandboxd.ts";

export type SandboxdClient = LineClient<typeof operations>;

const SERVICE: Service<typeof operations> = {
  name: "sandboxd",
  operations,
  maxAnswerBytes: MAX_ANSWER_BYTES,
  // A new sandbox boots in about 0.3 s; the rest is for a loaded host.
  deadlineMs: {
    ensureSandbox: 20_000,
    stopSandbox: 10_000,
    inspectSandbox: 3_000,
    freezeSandbox: 12_000,
    thawSandbox: 6_000,
    unlockVolume: 10_000,
    // The kernel syncs the file system first.
    lockVolume: 60_000,
    unlockedVolumes: 5_000,
    writers: 1_000,
    startRun: 30_000,
    admitRun: 10_000,
    stopRun: 20_000,
    inspectRun: 5_000,
    listRuns: 5_000,
    // Longer than it is ever asked to wait.
    awaitEnds: 70_000,
    forgetRun: 5_000,
    status: 5_000,
    doctor: 60_000,
  },
  away: "The sandbox service is not answering. Try again in a moment.",
  failed: "The sandbox could not be prepared. The server's log says why.",
  refused: "The server asked for something that its sandbox service does not do.",
};

/** api's end of sandboxd's socket. To be made when api listens for sandboxes: sandboxd takes it for the sign of that. */
export function createSandboxdClient({ path, log }: { path: string; log: Log }): SandboxdClient {
  return createLineClient({ path, service: SERVICE, log });
}

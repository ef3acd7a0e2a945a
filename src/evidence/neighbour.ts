import { randomBytes } from "node:crypto";
import type { RunId } from "../ids.ts";
import type { Appliance } from "../prove/appliance.ts";
import { removeNamespace, workspaceNamed } from "../prove/place.ts";
import { createProofRuns } from "../prove/runs.ts";
import { shownLinks } from "../sandboxd/network/link.ts";
import { listenerAt, type Listener } from "./listening.ts";
import type { Host } from "./run.ts";

/** Another run, whose gateway must be out of reach. */
export interface Neighbour {
  readonly run: RunId;
  readonly listener: Listener;
  /** Whether it was started for this, or was there. */
  readonly made: boolean;
}

const WORKSPACE = "cofferdam evidence";
const LIFE_S = 120;

/**
 * Does something beside a neighbour: another run that is there, which notices nothing of it, else one that is started
 * for this and ended afterwards.
 */
export async function besideNeighbour<T>(
  { run, host, appliance }: { readonly run: RunId; readonly host: Host; readonly appliance: Appliance },
  work: (neighbour: Neighbour) => Promise<T>,
): Promise<T> {
  const there = await neighbourOf(run, host);
  if (there !== undefined) return work({ ...there, made: false });
  const workspace = await workspaceNamed(appliance, WORKSPACE);
  const namespace = `neighbour-${randomBytes(6).toString("hex")}`;
  const place = { appliance, workspace };
  const other = await createProofRuns(place)(namespace, {
    command: `echo ready; exec sleep ${LIFE_S}`,
    worktree: { from: "empty" },
    limits: { timeout_s: LIFE_S, memory_mb: 128 },
    on_success: "discard",
  });
  try {
    await other.line("ready");
    const made = await neighbourOf(run, host);
    if (made === undefined) throw new Error("the neighbour that was started has no gateway");
    return await work({ ...made, made: true });
  } finally {
    await removeNamespace(place, namespace);
  }
}

/** One whose gateway listens: else not to reach it would show nothing. */
async function neighbourOf(
  own: RunId,
  { run: command, instance, config }: Host,
): Promise<Pick<Neighbour, "run" | "listener"> | undefined> {
  for (const { run, host } of await shownLinks(command, instance.inst)) {
    if (run === null || run === own || host === null) continue;
    const listener = listenerAt(host, config.gateway_port);
    if (listener !== undefined) return { run, listener };
  }
  return undefined;
}

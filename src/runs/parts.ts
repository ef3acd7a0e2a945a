import type { Ledger } from "../audit/ledger.ts";
import type { Config } from "../config/schema.ts";
import type { Credentials } from "../credentials/credentials.ts";
import type { Log } from "../log.ts";
import type { SandboxdClient } from "../sandbox/sandboxd-client.ts";
import type { Secrets } from "../secrets.ts";
import type { GatewayClient } from "./gateway-client.ts";
import type { RunInput } from "./input.ts";
import type { RunMeter } from "./meter.ts";
import type { RunOutput } from "./output/output.ts";
import type { RunRows } from "./rows.ts";
import type { DiskWatch } from "./worktree/watch.ts";
import type { Worktrees } from "./worktree/worktrees.ts";

/** A role that a run's life goes through. It may be away at any time: then its calls throw `unavailable`. */
type Role<Client extends { call: unknown }> = Pick<Client, "call">;

export interface LifeParts {
  /** How long a run that is asked to end has to do so by itself. */
  readonly graceMs?: number;
  /** How long a run's end waits for a gateway that is away, to tell what the run has used. */
  readonly gatewayPatienceMs?: number;
  /** Before what could not be done for a run, for want of a database say, is tried again. */
  readonly retryMs?: number;
  readonly rows: RunRows;
  readonly ledger: Pick<Ledger, "change" | "head">;
  readonly secrets: Pick<Secrets, "seal" | "open">;
  readonly config: () => Config["runs"];
  readonly credentials: Pick<Credentials, "sealed" | "used">;
  readonly sandboxd: Role<SandboxdClient>;
  readonly gateway: Role<GatewayClient>;
  readonly output: Pick<
    RunOutput,
    "prepare" | "attach" | "firstAt" | "status" | "drained" | "finish" | "remove"
  >;
  readonly input: Pick<RunInput, "launch" | "write" | "eof" | "signal" | "close">;
  readonly worktrees: Pick<Worktrees, "prepare" | "make" | "settle" | "merge" | "discard" | "remove">;
  readonly meter: RunMeter;
  readonly disk: Pick<DiskWatch, "watch">;
  /** Tells one boot of the host from another. */
  readonly bootId: string;
  readonly log: Log;
}

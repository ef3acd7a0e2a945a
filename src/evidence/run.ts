import type { Config } from "../config/schema.ts";
import type { RunId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import type { RunOnRecord } from "../protocol/evidence.ts";
import type { RunNetwork } from "../protocol/sandboxd.ts";
import type { Cgroups } from "../sandboxd/cgroup.ts";
import type { NetworkNames } from "../sandboxd/network/names.ts";
import type { RunNames } from "../sandboxd/run/names.ts";
import type { Runner } from "../sandboxd/runner.ts";

/** A run that lives, and where the host shows it: its names are derived from its id, as sandboxd does. */
export interface LiveRun {
  readonly id: RunId;
  readonly onRecord: RunOnRecord;
  readonly network: RunNetwork;
  readonly names: RunNames & { readonly net: NetworkNames };
  readonly host: Host;
}

export interface Host {
  readonly instance: Instance;
  readonly config: Config["runs"];
  /** Of the library beside the executable. */
  readonly runsc: string;
  readonly cgroups: Cgroups;
  readonly run: Runner;
}

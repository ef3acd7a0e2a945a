import { join } from "node:path";
import type { SandboxId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";

/** All that the host shows of one sandbox, derived from its id alone: teardown looks nothing up. */
export interface SandboxNames {
  readonly id: SandboxId;
  /** Mounted in the sandbox at /home/agent. */
  readonly slot: string;
  /** Where a tenant's directory is attached. */
  readonly workspace: string;
  readonly bundle: string;
  readonly spec: string;
  readonly record: string;
  /** There while it stands still for a snapshot, or is being made to, or let go. */
  readonly standing: string;
  /** An empty directory, which OCI wants as the root's path; the real root is the image. */
  readonly emptyRoot: string;
  /** Relative to each cgroup hierarchy's root. */
  readonly cgroup: string;
  readonly runsc: { readonly state: string; readonly lock: string; readonly socket: string };
}

export function sandboxNames(instance: Instance, id: SandboxId): SandboxNames {
  const { slots, bundles, runsc } = instance.sandboxd;
  const bundle = join(bundles, id);
  const slot = join(slots, id);
  return {
    id,
    slot,
    workspace: join(slot, "workspace"),
    bundle,
    spec: join(bundle, "config.json"),
    record: join(bundle, "record.json"),
    standing: join(bundle, "standing"),
    emptyRoot: join(bundle, "root"),
    cgroup: `${cgroupParent(instance)}/${id}`,
    runsc: {
      state: join(runsc, `${id}_sandbox:${id}.state`),
      lock: join(runsc, `${id}_sandbox:${id}.lock`),
      socket: join(runsc, `runsc-${id}.sock`),
    },
  };
}

export function cgroupParent(instance: Instance): string {
  return `cofferdam-${instance.inst}`;
}

const ID_IN_NAME = /(?:^|[-_])(sb-[a-z2-7]{10})(?=$|[_.])/;

/** The sandbox id in a name that sandboxNames made, if it is one. */
export function sandboxIdInName(name: string): SandboxId | undefined {
  return ID_IN_NAME.exec(name)?.[1] as SandboxId | undefined;
}

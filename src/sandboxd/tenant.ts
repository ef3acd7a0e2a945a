import { closeSync } from "node:fs";
import type { NamespaceId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import type { Sandbox } from "./boot.ts";
import type { Cgroups } from "./cgroup.ts";
import { StepError } from "../protocol/lines/failure.ts";
import { writeRecord } from "./record.ts";
import { attachVolume } from "./slot.ts";
import { openVolume } from "./volume.ts";

interface Deps {
  readonly instance: Instance;
  readonly cgroups: Cgroups;
  readonly make: string;
}

/**
 * Gives a spare its tenant. The record says so before the volume is there: whatever ends sandboxd in between, the
 * sandbox can't be taken for an unused one again.
 */
export function attachTenant(
  { instance, cgroups, make }: Deps,
  sandbox: Sandbox,
  namespace: NamespaceId,
): void {
  const { names, nonce, process, startedAt } = sandbox;
  try {
    const volume = openVolume(instance, namespace);
    try {
      writeRecord(names, { sandbox: names.id, nonce, process, startedAt, namespace, make });
      attachVolume(names, volume);
    } finally {
      closeSync(volume);
    }
    cgroups.setPriority(names.cgroup, "tenant");
  } catch (error) {
    throw new StepError(`attaching ${namespace}`, error);
  }
}

import { existsSync, readFileSync } from "node:fs";
import { z } from "zod";
import { sandboxId } from "../ids.ts";
import { NAMESPACES } from "../kernel/process.ts";
import { openCgroups } from "../sandboxd/cgroup.ts";
import { readRecord } from "../sandboxd/record.ts";
import { cgroupParent, sandboxNames } from "../sandboxd/names.ts";
import { runscFlags, sandboxSpec } from "../sandboxd/spec.ts";
import type { Claim } from "./claim.ts";
import {
  capabilitiesOf,
  heldBy,
  isFiltered,
  partOf,
  readHostProcess,
  shownProcess,
  uidOf,
  type HostProcess,
} from "./host-process.ts";
import type { Stage } from "./stage.ts";

/** What the gofer needs to open tenants' files: chown, dac_override, dac_read_search, fowner, fsetid and sys_chroot. */
const GOFER_CAPABILITIES = 0x4001fn;
const annotated = z.object({ annotations: z.object({ "dev.gvisor.spec.rootfs.source": z.string() }) });

/** What the host shows of the sandbox that the proof's commands run in. */
export function hostExecClaims({ place }: Stage): Claim[] {
  const { instance } = place.appliance;
  const cgroups = openCgroups();

  /** Its gofer is the one that sees the namespace's file. */
  async function own() {
    await place.appliance.ask(z.unknown(), "/admin/exec", {
      method: "POST",
      headers: { "x-workspace": place.workspace, "x-namespace": place.tag },
      json: { command: "true" },
    });
    const parent = cgroupParent(instance);
    for (const name of cgroups.children(parent)) {
      const id = sandboxId.schema.safeParse(name).data;
      if (id === undefined) continue;
      const pids = cgroups.processes(`${parent}/${name}`);
      if (!pids.some((pid) => existsSync(`/proc/${pid}/root/home/agent/workspace/${place.tag}`))) continue;
      return { names: sandboxNames(instance, id), processes: pids.map(readHostProcess) };
    }
    throw new Error("the sandbox of the proof's commands was not found");
  }

  const claims: Claim[] = [
    {
      id: "host.exec-sandbox",
      claim:
        "A command's sandbox is nobody on the host, in namespaces of its own, with none of the host's files but its namespace's.",
      attack: "read the users, capabilities, filters, namespaces and mounts of its processes",
      control: "the same look finds root in the host's namespaces in the proof itself",
      try: async () => {
        const { names, processes } = await own();
        const host = readHostProcess(process.pid);
        const starter = readHostProcess(readRecord(names)?.process.pid ?? process.pid);
        const wrong = processes.flatMap((one) => wrongIn(one, { host, starter }));
        const control = wrongIn(host, { host, starter });
        return {
          attack: { ok: wrong.length === 0, what: wrong.join("; ") || `${processes.length} processes` },
          control: { ok: control.length > 0, what: control.join("; ") || "it finds nothing" },
        };
      },
    },
    {
      id: "host.exec-spec",
      claim: "A command's sandbox was started by the spec and the flags of this configuration.",
      attack: "compare the spec, and the flags with which its processes run",
      control: "another spec is not the same",
      try: async () => {
        const { names, processes } = await own();
        const text = readFileSync(names.spec, "utf8");
        const { annotations } = annotated.parse(JSON.parse(text));
        const wanted = JSON.stringify(
          sandboxSpec(names, annotations["dev.gvisor.spec.rootfs.source"], place.config),
        );
        const argv = processes.find((one) => partOf(one) === "sandbox")?.argv ?? [];
        const flags = runscFlags(instance.sandboxd.runsc, place.config.exec.directfs);
        const missing = flags.filter((flag) => !argv.includes(flag) && !argv.includes(`${flag}=true`));
        const wrong = [
          ...(text === wanted ? [] : ["the spec is another"]),
          ...missing.map((flag) => `without ${flag}`),
        ];
        return {
          attack: { ok: wrong.length === 0, what: wrong.join(", ") || "as configured" },
          control: { ok: `${text} ` !== wanted, what: "it is not" },
        };
      },
    },
  ];
  // By the operator's own choice the sandbox opens files itself then, with what that takes.
  return place.config.exec.directfs ? claims.slice(1) : claims;
}

function wrongIn(
  one: HostProcess,
  { host, starter }: { readonly host: HostProcess; readonly starter: HostProcess },
): string[] {
  const part = partOf(one);
  const shared = NAMESPACES.filter(
    // The gofer opens files as the host's root, with little more than that.
    (kind) => !(part === "gofer" && kind === "user") && one.namespaces[kind] === host.namespaces[kind],
  );
  const isNobody = part === "gofer" || uidOf(one) === "65534";
  const allowed = part === "gofer" ? GOFER_CAPABILITIES : 0n;
  const held = part === "gofer" ? heldBy(one) : capabilitiesOf(one);
  const mounts = one.mounts.filter(({ at, type }) =>
    part === "gofer" ? !at.startsWith("/home/agent") : at !== "/" || type !== "tmpfs",
  );
  const ok = isNobody && (held & ~allowed) === 0n && isFiltered(one, starter);
  return [
    ...(ok ? [] : [`${part} ${one.pid}: ${shownProcess(one)}`]),
    ...(shared.length === 0 ? [] : [`${part} ${one.pid} is in the host's ${shared.join(", ")}`]),
    ...(mounts.length === 0
      ? []
      : [
          `${part} ${one.pid} sees ${mounts
            .map(({ at }) => at)
            .slice(0, 3)
            .join(", ")}`,
        ]),
  ];
}

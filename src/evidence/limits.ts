import { admitted } from "../sandboxd/run/boot.ts";
import type { LiveRun } from "./run.ts";
import { pairs, see, type Section } from "./section.ts";

const MIB = 1024 * 1024;

export async function limitSection({ names, host, onRecord }: LiveRun): Promise<Section> {
  const { cgroups } = host;
  return see({
    name: "limits",
    title: "Limits and use",
    claim:
      "Its memory, swap, processes and CPU are limited by a cgroup of its own, in which all of its processes but the two that wait are.",
    by_hand: [
      `find -L /sys/fs/cgroup -maxdepth 4 -path '*/${names.cgroup}/*' -regex '.*\\(limit_in_bytes\\|\\.max\\|_us\\)' -exec grep -H . {} +`,
    ],
    look: () => {
      const wanted = admitted(host.config, onRecord.limits);
      const limits = cgroups.limits(names.cgroup, wanted);
      const facts = {
        version: cgroups.version,
        cgroup: names.cgroup,
        limits,
        use: {
          memory_bytes: cgroups.memoryBytes(names.cgroup),
          peak_memory_bytes: cgroups.peakMemoryBytes(names.cgroup),
          cpu_ms: cgroups.cpuMs(names.cgroup),
          tasks: cgroups.tasks(names.cgroup),
          out_of_memory: cgroups.oomKilled(names.cgroup),
        },
        processes: cgroups.processes(names.cgroup),
      };
      const { use } = facts;
      return {
        facts,
        lines: pairs([
          ...limits.map(({ file, value }) => [file, value ?? "this kernel has no such limit"] as const),
          ["memory now", mib(use.memory_bytes)],
          ["memory at most so far", mib(use.peak_memory_bytes)],
          ["CPU so far", use.cpu_ms === null ? "not told" : `${use.cpu_ms / 1000} s`],
          ["tasks now", `${use.tasks ?? "not told"}`],
          ["processes", facts.processes.join(" ")],
        ]),
        wrong: [
          ...cgroups.missing(names.cgroup, wanted),
          ...(facts.processes.length === 0 ? ["nothing is in it"] : []),
        ],
      };
    },
  });
}

function mib(bytes: number | null): string {
  return bytes === null ? "not told" : `${(bytes / MIB).toFixed(1)} MiB`;
}

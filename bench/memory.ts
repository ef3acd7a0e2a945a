import { readFileSync, readdirSync } from "node:fs";
import type { Appliance } from "../test/fixtures/appliance.ts";

function field(pid: number, file: string, name: string): number {
  const line = readFileSync(`/proc/${pid}/${file}`, "utf8")
    .split("\n")
    .find((text) => text.startsWith(`${name}:`));
  return Number(line?.replaceAll(/\D/g, "") ?? 0) / 1024;
}

/** Resident MiB of the three roles, and the mean proportional share of one idle sandbox (all of its processes). */
export function memory(appliance: Appliance): Record<string, number> {
  const roles = Object.fromEntries(
    (["serve", "api", "gateway"] as const).map((role) => [
      `${role === "serve" ? "sandboxd and supervisor" : role}: resident MiB`,
      field(appliance.pid(role), "status", "VmRSS"),
    ]),
  );
  let share = 0;
  const sandboxes = new Set<string>();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      const id = argv.find((text) => /^sb-[a-z2-7]{10}$/.test(text));
      if (id === undefined || !argv.join(" ").includes(appliance.inst)) continue;
      sandboxes.add(id);
      share += field(Number(pid), "smaps_rollup", "Pss");
    } catch {
      // The process ended while it was looked at.
    }
  }
  return {
    ...roles,
    "three roles together: resident MiB": Object.values(roles).reduce((sum, value) => sum + value, 0),
    "idle sandboxes looked at": sandboxes.size,
    "one idle sandbox: proportional MiB": share / Math.max(1, sandboxes.size),
  };
}

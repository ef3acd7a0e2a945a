import { readFileSync } from "node:fs";

export interface HostMemory {
  readonly totalBytes: number;
  /** What can be used without swapping. */
  readonly availableBytes: number;
}

export function readHostMemory(): HostMemory {
  const text = readFileSync("/proc/meminfo", "utf8");
  const field = (name: string): number => {
    const match = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text);
    if (match === null) throw new Error(`/proc/meminfo has no ${name}`);
    return Number(match[1]) * 1024;
  };
  return { totalBytes: field("MemTotal"), availableBytes: field("MemAvailable") };
}

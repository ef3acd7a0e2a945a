import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { z } from "zod";
import { OperationError } from "../../protocol/lines/failure.ts";
import type { Runner } from "../runner.ts";

const TIMEOUT_MS = 10_000;

/**
 * A direct lane needs the host to forward what comes back. Where it does that for nobody, only the interfaces that lanes
 * lead through are told to, and the filter drops all else that comes in there to be forwarded: the host is as little of
 * a router as before. Which ones these are is kept on the disk before they are told, and undone with the last lane.
 */
export interface Forwarding {
  /** What the filter is to guard. */
  guarded(): readonly string[];
  /** Through which interfaces a run's packets to these addresses go, of those that do not forward yet. */
  missing(veth: string, from: string, addresses: readonly string[]): Promise<string[]>;
  /** Once the filter guards them. */
  turnOn(interfaces: readonly string[]): void;
  /** With the last lane, before the filter guards them no more. */
  turnOff(): void;
}

export function createForwarding({ run, path }: { readonly run: Runner; readonly path: string }): Forwarding {
  /** Once someone has the host forward for all, it is theirs to say where. */
  const guarded = () => (isOn("all") ? [] : read(path));

  return {
    guarded,

    async missing(veth, from, addresses) {
      write(settingOf(veth), "1");
      const devices = await Promise.all(
        [...new Set(addresses)].map((address) => deviceTo(run, address, { veth, from })),
      );
      return [...new Set(devices)].filter((device) => !isOn(device));
    },

    turnOn(interfaces) {
      const all = [...new Set([...guarded(), ...interfaces])];
      if (all.length === 0) return;
      writeFileSync(`${path}.new`, JSON.stringify(all), { mode: 0o600 });
      renameSync(`${path}.new`, path);
      for (const device of interfaces) write(settingOf(device), "1");
    },

    turnOff() {
      for (const device of guarded()) write(settingOf(device), "0");
      rmSync(path, { force: true });
    },
  };
}

const route = z.array(z.object({ dev: z.string() })).min(1);

async function deviceTo(
  run: Runner,
  address: string,
  { veth, from }: { readonly veth: string; readonly from: string },
): Promise<string> {
  try {
    const argv = ["ip", "-j", "route", "get", address, "from", from, "iif", veth];
    return route.parse(JSON.parse(await run(argv, { timeoutMs: TIMEOUT_MS })))[0]?.dev ?? "";
  } catch (error) {
    throw new OperationError("failed", `this host has no way to ${address}`, { cause: error });
  }
}

function settingOf(device: string): string {
  return `/proc/sys/net/ipv4/conf/${device}/forwarding`;
}

function isOn(device: string): boolean {
  return readFileSync(settingOf(device), "utf8").trim() === "1";
}

/** An interface may have gone; nothing is forwarded through it then. */
function write(setting: string, value: "0" | "1"): void {
  try {
    writeFileSync(setting, value, { flag: "r+" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

function read(path: string): string[] {
  try {
    return z.array(z.string()).parse(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

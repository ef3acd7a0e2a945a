import { expect, test } from "bun:test";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { amount } from "../../../fixtures/amount.ts";
import { hostState } from "../../../fixtures/host-state.ts";
import { seededRandom } from "../../../fixtures/random.ts";
import type { StagedRun } from "../../../fixtures/run-stage.ts";
import { killable, type Daemon } from "./killable.ts";
import { processesOf } from "./stage.ts";

const RUNS = process.env["COFFERDAM_TEST_LONG"] === undefined ? 12 : amount("RUNS", 200);
const AT_ONCE = 3;
const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);

const VICTIMS = ["sandboxd", "nobody", "shim", "runsc", "sandbox", "gofer"] as const;
const ARGUMENTS = {
  shim: /^\/bin\/sh -c/,
  runsc: /^[^ ]+\/runsc --root/,
  sandbox: /^runsc-sandbox /,
  gofer: /^runsc-gofer /,
};
const SCRIPTS = [
  "exit 3",
  "echo hi; sleep 0.2",
  "sleep 60",
  "while :; do echo x >>f; done",
  "sleep 60 & sleep 60 & wait",
  "head -c 300000 /dev/zero; sleep 60",
];

test(`${RUNS} runs with kill -9 of whoever at any moment leave the host as it was (SEED=${seed})`, async () => {
  const random = seededRandom(seed);
  const at = killable();
  let daemon = await at.start();
  // One run first: what the first of all makes and keeps (a chain, a directory) was there before.
  const warm = at.make();
  await daemon.begin(warm, "exit 0");
  await settle(daemon, [warm]);
  at.forget(warm);
  const before = await whenStill(() => state(at.instance.inst, daemon.pid));

  const killed = new Map<string, number>();
  for (let done = 0; done < RUNS; done += AT_ONCE) {
    const runs = Array.from({ length: AT_ONCE }, () => at.make());
    const begun = runs.map((run) =>
      daemon.begin(run, SCRIPTS[random.int(SCRIPTS.length)] ?? "").catch(() => {}),
    );
    // While it boots, once it is there, or while it ends.
    await Bun.sleep(random.int(random.int(2) === 0 ? 160 : 600));
    const victim = VICTIMS[random.int(VICTIMS.length)] ?? "nobody";
    const stops = random.int(2) === 0 ? runs.map((run) => stop(daemon, run)) : [];
    await Bun.sleep(random.int(30));
    if (victim === "sandboxd") await daemon.kill();
    else if (victim !== "nobody") {
      const found = runs
        .flatMap((run) => processesOf(run.id))
        .filter(({ argv }) => ARGUMENTS[victim].test(argv));
      for (const { pid } of found.slice(0, 2)) tryToKill(pid);
      killed.set(victim, (killed.get(victim) ?? 0) + found.length);
    }
    await Promise.all([...begun, ...stops]);
    if (victim === "sandboxd") {
      daemon = await at.start();
      killed.set(victim, (killed.get(victim) ?? 0) + 1);
    }
    await Promise.all(runs.map((run) => stop(daemon, run)));
    await settle(daemon, runs);
    for (const run of runs) at.forget(run);
  }
  expect(await whenStill(() => state(at.instance.inst, daemon.pid))).toEqual(before);
  // Or nothing was tried.
  expect(killed.size).toBeGreaterThan(RUNS > 100 ? 4 : 0);
  await daemon.kill();
}, 1_200_000);

const stop = (daemon: Daemon, run: StagedRun) =>
  daemon.client.call("stopRun", { run: run.id }).catch(() => {});

/** Each of them is over, or nothing of it ever was; and then it is forgotten. */
async function settle({ client }: Daemon, runs: readonly StagedRun[]): Promise<void> {
  for (const { id: run } of runs) {
    for (;;) {
      const { state } = await client.call("inspectRun", { run });
      if (state === "ended" || state === "unknown") break;
      await Bun.sleep(10);
    }
    await client.call("forgetRun", { run });
  }
}

function tryToKill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended meanwhile.
  }
}

/** All that a run could leave on the host, and what the sandboxd that has seen most of it holds open. */
function state(inst: string, sandboxd: number) {
  const printed = (argv: string[]) => Bun.spawnSync(argv).stdout.toString().trim().split("\n");
  const rules = [printed(["iptables-save"]), printed(["ip6tables-save"])].flat();
  return {
    ours: hostState(inst),
    namespaces: list("/run/netns"),
    links: printed(["ip", "-brief", "link"]).map((line) => line.split(/[@ ]/)[0]),
    addresses: printed(["ip", "-brief", "address"]).map((line) => line.replaceAll(/ +/g, " ")),
    routes: printed(["ip", "route", "show", "table", "all"]),
    rules: rules.filter((line) => !line.startsWith("#")).map((line) => line.replace(/ \[\d+:\d+\]$/, "")),
    mounts: readFileSync("/proc/self/mounts", "utf8").split("\n").sort(),
    processes: list("/proc")
      .filter((name) => /^\d+$/.test(name))
      .map(commandOf)
      .filter(Boolean)
      .sort(),
    files: list(`/run/cofferdam/${inst}`, true),
    // What Bun had for the stdin of a program that is over, until it collects its garbage.
    fds: list(`/proc/${sandboxd}/fd`)
      .map((fd) => kindOf(`/proc/${sandboxd}/fd/${fd}`))
      .filter((kind) => !kind.startsWith("/memfd:spawn_stdio"))
      .sort(),
  };
}

function list(directory: string, recursive = false): string[] {
  try {
    return readdirSync(directory, { recursive }).map(String).sort();
  } catch {
    return [];
  }
}

function commandOf(pid: string): string {
  try {
    // The daemon's and its forerunners' are the same.
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
  } catch {
    return "";
  }
}

function kindOf(link: string): string {
  try {
    return readlinkSync(link).replaceAll(/\d+/g, "N");
  } catch {
    return "";
  }
}

/** The kernel takes a moment to let go of what it counts: a look counts when the next one is the same. */
async function whenStill<T>(look: () => T): Promise<T> {
  for (let last = look(); ;) {
    await Bun.sleep(400);
    const now = look();
    if (Bun.deepEquals(now, last)) return now;
    last = now;
  }
}

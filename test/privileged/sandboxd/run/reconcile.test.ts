import { expect, test } from "bun:test";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { configSchema } from "../../../../src/config/schema.ts";
import { runId, type RunId } from "../../../../src/ids.ts";
import { createInstance, ensureRunDirectories } from "../../../../src/instance/setup.ts";
import { bindMount } from "../../../../src/kernel/mounts.ts";
import { roleUser } from "../../../../src/kernel/users.ts";
import { openCgroups } from "../../../../src/sandboxd/cgroup.ts";
import { isAlive, identify } from "../../../../src/sandboxd/process.ts";
import { runNames } from "../../../../src/sandboxd/run/names.ts";
import { createRuns } from "../../../../src/sandboxd/run/runs.ts";
import { hostState } from "../../../fixtures/host-state.ts";
import { ensureUsers } from "../../../fixtures/users.ts";

ensureUsers();
const instance = createInstance(`/scratch/data-${crypto.randomUUID().slice(0, 8)}`);
ensureRunDirectories(instance);
const cgroups = openCgroups();

/** Each leaves one thing of a run that nobody knows of. */
const strays: Record<string, (run: RunId) => unknown> = {
  "its directory": (run) => mkdirSync(runNames(instance, run).emptyRoot, { recursive: true }),
  "a record that is not whole": (run) => {
    mkdirSync(runNames(instance, run).directory);
    writeFileSync(runNames(instance, run).record, "{");
  },
  "how it ended": (run) => writeFileSync(runNames(instance, run).exit, "0\n"),
  "a mounted worktree": (run) => {
    mkdirSync("/scratch/worktree", { recursive: true });
    writeFileSync("/scratch/worktree/kept", "");
    mkdirSync(runNames(instance, run).work);
    bindMount("/scratch/worktree", runNames(instance, run).work);
  },
  "a cgroup with a process": (run) => {
    cgroups.create(runNames(instance, run).cgroup, { memoryBytes: 1 << 26, pids: 50, cpus: 1 });
    cgroups.join(runNames(instance, run).cgroup, Bun.spawn(["sleep", "60"]).pid);
  },
  "a process that was started for it": (run) =>
    Bun.spawn(["/scratch/waits", `--root=${runNames(instance, run).runscRoot}`]),
};

test("what the host shows of a run that nobody knows of is removed, and nobody else's", async () => {
  writeFileSync("/scratch/waits", "#!/bin/sh\nwhile sleep 1; do :; done\n", { mode: 0o755 });
  const removed: RunId[] = [];
  const runs = await createRuns({
    instance,
    config: configSchema.parse({}),
    ceiling: () => ({ live: 1, pool: 0 }),
    cgroups,
    api: roleUser("cofferdam"),
    runsc: "/bin/false",
    rootImage: "/dev/null",
    versions: { runsc: "test", rootfs: "sha256:test" },
    log: { info() {}, warn() {}, error() {} },
    networks: {
      ensure: () => Promise.reject(new Error("nothing is started here")),
      openLanes: async () => {},
      remove: async (run) => void removed.push(run),
      drops: async () => [],
      isLeft: () => false,
      watch: async () => {},
      reconcile: async () => {},
    },
  });
  const left: RunId[] = [];
  for (const leave of Object.values(strays)) {
    const run = runId.make();
    left.push(run);
    leave(run);
  }
  // A process of somebody else, whose arguments are not of this instance.
  const other = Bun.spawn(["/scratch/waits", "--root=/run/cofferdam/ffff/host/runs/run-aaaaaaaaaa/runsc"]);
  const identity = identify(other.pid);
  expect(hostState(instance.inst).length).toBeGreaterThanOrEqual(Object.keys(strays).length);

  await runs.reconcile();
  expect(hostState(instance.inst)).toEqual([]);
  expect(new Set(removed)).toEqual(new Set(left));
  expect(existsSync("/scratch/worktree/kept")).toBe(true);
  expect(identity !== undefined && isAlive(identity)).toBe(true);
  other.kill("SIGKILL");
  await runs.close("end");
});

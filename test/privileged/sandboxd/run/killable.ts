import { readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInstance, ensureRunDirectories } from "../../../../src/instance/setup.ts";
import { createSandboxdClient } from "../../../../src/sandbox/sandboxd-client.ts";
import { runStage, type StagedRun } from "../../../fixtures/run-stage.ts";
import { ensureUsers } from "../../../fixtures/users.ts";
import { realLibrary } from "../../sandbox/stage.ts";

/** As sandboxd's unit has them, for setpriv: with more, a test would not see what is missing there. */
function unitCapabilities(): string {
  const unit = join(import.meta.dir, "../../../../systemd/cofferdam-sandboxd.service");
  const line = /^CapabilityBoundingSet=(.+)$/m.exec(readFileSync(unit, "utf8"))?.[1] ?? "";
  return [
    "-all",
    ...line
      .toLowerCase()
      .split(" ")
      .map((name) => name.replace("cap_", "+")),
  ].join(",");
}

export type Daemon = Awaited<ReturnType<ReturnType<typeof killable>["start"]>>;

/** An instance whose sandboxd is a process of its own, started and killed as often as one likes. */
export function killable() {
  ensureUsers();
  const lib = realLibrary();
  const instance = createInstance(`/scratch/data-${crypto.randomUUID().slice(0, 8)}`);
  ensureRunDirectories(instance);
  const staged = runStage(instance);

  return {
    instance,
    make: () => staged.make(),
    /** What api has of a run. */
    forget(run: StagedRun): void {
      run.close();
      rmSync(run.pipes, { recursive: true });
      rmSync(dirname(run.work), { recursive: true });
    },
    async start() {
      const verbose = process.env["VERBOSE"] === "1";
      const command = [process.execPath, join(import.meta.dir, "daemon.ts"), instance.data, lib];
      const daemon = Bun.spawn(
        ["setpriv", "--no-new-privs", `--bounding-set=${unitCapabilities()}`, ...command],
        {
          stdout: "pipe",
          stderr: verbose ? "inherit" : "ignore",
        },
      );
      const first = await daemon.stdout.getReader().read();
      if (new TextDecoder().decode(first.value) !== "ready\n") throw new Error("sandboxd did not start");
      const log = { info() {}, warn() {}, error() {} };
      const client = createSandboxdClient({ path: instance.sockets.sandboxd, log });
      return {
        client,
        pid: daemon.pid,
        async begin(run: StagedRun, script: string, timeout_s = 60): Promise<void> {
          await client.call("startRun", { run: run.id });
          await client.call("admitRun", {
            run: run.id,
            memory_mb: 256,
            cpus: 2,
            pids: 100,
            timeout_s,
            direct: [],
          });
          run.sh(script);
        },
        /** `kill -9` of it alone. */
        async kill(): Promise<void> {
          client.close();
          daemon.kill("SIGKILL");
          await daemon.exited;
        },
      };
    },
  };
}

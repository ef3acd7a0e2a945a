import { readdirSync, readFileSync } from "node:fs";
import { configSchema, type Config } from "../../../../src/config/schema.ts";
import { createInstance, ensureRunDirectories } from "../../../../src/instance/setup.ts";
import { openState } from "../../../../src/instance/state.ts";
import { openStderr } from "../../../../src/kernel/stderr.ts";
import { createLog } from "../../../../src/log.ts";
import type { OperationArgs, RunFate } from "../../../../src/protocol/sandboxd.ts";
import { createSandboxdClient } from "../../../../src/sandbox/sandboxd-client.ts";
import { startSandboxd, type SandboxdOptions } from "../../../../src/sandboxd/sandboxd.ts";
import { hostState } from "../../../fixtures/host-state.ts";
import { runStage, type StagedRun } from "../../../fixtures/run-stage.ts";
import { ensureUsers } from "../../../fixtures/users.ts";
import { realLibrary } from "../../sandbox/stage.ts";

export interface BoxOptions {
  /** Where its data directory is made. */
  readonly on?: string;
  readonly runs?: Partial<Config["runs"]>;
  readonly onRunStep?: SandboxdOptions["onRunStep"];
  readonly sandboxd?: Pick<SandboxdOptions, "ceiling" | "unadmittedMs">;
}

type Limits = Omit<OperationArgs<"admitRun">, "run">;
const LIMITS: Limits = { memory_mb: 512, cpus: 2, pids: 512, timeout_s: 60, direct: [] };

/** The host's processes whose arguments name a run: its shim, runsc, its sandbox and its gofer. */
export function processesOf(run: string): { pid: number; argv: string }[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
        return argv.includes(run) ? [{ pid: Number(pid), argv }] : [];
      } catch {
        // It ended while it was looked at.
        return [];
      }
    });
}

/** One instance with a sandboxd in this process, a client of it, and what api does for runs. */
export async function box(options: BoxOptions = {}) {
  ensureUsers();
  const lib = realLibrary();
  const instance = createInstance(`${options.on ?? "/scratch"}/data-${crypto.randomUUID().slice(0, 8)}`);
  ensureRunDirectories(instance);
  await openState(instance, crypto.getRandomValues(new Uint8Array(32)));
  const config = configSchema.parse({ exec: { pool: 0 }, runs: { memory_mb: 512, ...options.runs } });
  const logged: string[] = [];
  const show = process.env["VERBOSE"] === "1" ? openStderr().write : () => {};
  const log = createLog("sandboxd", (line, urgent) => {
    logged.push(line);
    show(line, urgent);
  });
  const { onRunStep } = options;
  const start = (more = options.sandboxd) =>
    startSandboxd({ instance, config, lib, log, ...more, ...(onRunStep === undefined ? {} : { onRunStep }) });
  let sandboxd = await start();
  const client = createSandboxdClient({ path: instance.sockets.sandboxd, log });
  const staged = runStage(instance);

  return {
    instance,
    config,
    client,
    logged,
    make: () => staged.make(),
    /** Booted, waiting for its launch. */
    async boot(): Promise<StagedRun> {
      const run = staged.make();
      await client.call("startRun", { run: run.id });
      return run;
    },
    admit: (run: Pick<StagedRun, "id">, limits: Partial<Limits> = {}) =>
      client.call("admitRun", { run: run.id, ...LIMITS, ...limits }),
    async begin(script: string, limits: Partial<Limits> = {}): Promise<StagedRun> {
      const run = await this.boot();
      await this.admit(run, limits);
      run.sh(script);
      return run;
    },
    /** What became of it, once it is over. */
    async fate(run: StagedRun): Promise<RunFate> {
      for (;;) {
        const state = await client.call("inspectRun", { run: run.id });
        if (state.state === "ended") return state.fate;
        if (state.state === "unknown") throw new Error("sandboxd knows nothing of it");
        await Bun.sleep(10);
      }
    },
    /** Runs a script to its end and gives back what it printed. */
    async ran(script: string, limits: Partial<Limits> = {}) {
      const run = await this.begin(script, limits);
      const fate = await this.fate(run);
      const { out, err } = run.output();
      await this.forget(run);
      return { ...fate, out, err };
    },
    async forget(run: StagedRun): Promise<void> {
      await client.call("forgetRun", { run: run.id });
      run.close();
    },
    /** Runs go on meanwhile. */
    async restart(more?: BoxOptions["sandboxd"]): Promise<void> {
      await sandboxd.stop("keep");
      sandboxd = await start(more);
    },
    left: () => hostState(instance.inst),
    async end(): Promise<string[]> {
      client.close();
      await sandboxd.stop("end");
      return hostState(instance.inst);
    },
  };
}

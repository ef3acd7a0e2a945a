import { closeSync, mkdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { DEFAULT_RUNS_SUBNET, type Config } from "../config/schema.ts";
import { AppError } from "../errors.ts";
import { sandboxId, type RunId, type SandboxId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import { roleUser } from "../kernel/users.ts";
import { lockInstance, type InstanceLock } from "../instance/lock.ts";
import type { Log } from "../log.ts";
import { withoutApi } from "../instance/presence.ts";
import { ensureRunDirectories } from "../instance/setup.ts";
import { MAX_ANSWER_BYTES, MAX_LINE_BYTES, operations } from "../protocol/sandboxd.ts";
import { adoptOrRemove, removeStrays } from "./adopt.ts";
import { bootSandbox, teardown, type BootStep, type Sandbox } from "./boot.ts";
import { openCgroups } from "./cgroup.ts";
import { examine } from "./doctor.ts";
import { explain } from "../protocol/lines/failure.ts";
import { createTurns } from "../turns.ts";
import type { RunStep } from "./run/boot.ts";
import { createNetworks, type Networks } from "./network/networks.ts";
import { createRuns, type RunsCeiling } from "./run/runs.ts";
import { makeOf, openLibrary } from "./library.ts";
import { cgroupParent } from "./names.ts";
import { createAnswerer } from "../protocol/lines/operations.ts";
import { createPool } from "./pool.ts";
import { isAlive } from "./process.ts";
import { runCommand } from "./runner.ts";
import { createSandboxes } from "./sandboxes.ts";
import { listenForLines } from "../protocol/lines/server.ts";
import { letGo, makeStand } from "./standstill.ts";
import { attachTenant } from "./tenant.ts";
import { createVolumeKeys } from "./volume-keys.ts";
import { openVolume } from "./volume.ts";

const CLEANUP_EVERY_MS = 60_000;
const MAX_PARALLEL_BOOTS = 4;
/** How many more tenants' sandboxes than `exec.warm` there may be while api evicts. */
const WARM_MARGIN = 16;
const GONE_API_WAIT_MS = 5_000;
const LEAVING_API_WAIT_MS = 200;

export interface SandboxdOptions {
  readonly instance: Instance;
  readonly config: Config;
  /** PREFIX/lib/cofferdam. */
  readonly lib: string;
  readonly log: Log;
  /** When the caller holds it already; else it is taken here. */
  readonly lock?: InstanceLock;
  /** Called before each step of a boot. */
  readonly onStep?: (step: BootStep, id: SandboxId) => void;
  readonly onRunStep?: (step: RunStep, id: RunId) => void;
  /** How many sandboxes of runs there may be, by the configuration as it is now; `config` when absent. */
  readonly ceiling?: () => RunsCeiling;
  readonly unadmittedMs?: number;
}

export interface Sandboxd {
  /**
   * Answers what is asked, then goes. "keep": sandboxes that api holds live on, for the sandboxd that comes next; those
   * of an api that is gone end by themselves and are removed. "end": every sandbox is ended and removed. Without an api,
   * all volumes are locked too.
   */
  stop(sandboxes: "keep" | "end"): Promise<void>;
}

/** The monitor: root, in the host's mount namespace. Resolves when it listens and what was left before it is settled. */
export async function startSandboxd(options: SandboxdOptions): Promise<Sandboxd> {
  const { instance, config, log } = options;
  const library = openLibrary(options.lib);
  const api = roleUser("cofferdam");
  makeDirectories(instance);
  const lock = options.lock ?? lockInstance(instance);
  try {
    return await run();
  } catch (error) {
    lock.release();
    throw error;
  }

  async function run(): Promise<Sandboxd> {
    const cgroups = openCgroups();
    const make = makeOf(library, instance, config);
    const { runsc, rootImage } = library;
    const booting = new Set<SandboxId>();

    async function boot(): Promise<Sandbox> {
      const id = sandboxId.make();
      booting.add(id);
      const started = performance.now();
      const step = options.onStep === undefined ? {} : { onStep: options.onStep };
      try {
        const deps = { instance, config, runsc, rootImage, apiUid: api.uid, cgroups, make, ...step };
        const sandbox = await bootSandbox(deps, id);
        sandboxes.enter(sandbox, null);
        log.info("a sandbox is booted", { sandbox: id, ms: Math.round(performance.now() - started) });
        return sandbox;
      } finally {
        booting.delete(id);
      }
    }

    async function probeBoot(): Promise<void> {
      const sandbox = await boot();
      await sandboxes.stop(sandbox.names.id);
    }

    const pool = createPool<Sandbox>({
      target: config.exec.pool,
      parallel: Math.min(MAX_PARALLEL_BOOTS, availableParallelism()),
      boot,
      log,
    });
    const sandboxes = createSandboxes({
      pool,
      limit: config.exec.warm + WARM_MARGIN,
      log,
      host: {
        checkVolume: (namespace) => closeSync(openVolume(instance, namespace)),
        attach: (sandbox, namespace) => attachTenant({ instance, cgroups, make }, sandbox, namespace),
        isAlive: ({ process }) => isAlive(process),
        fate: ({ names }) => ({ oom: cgroups.oomKilled(names.cgroup) }),
        teardown: ({ names, process }) => teardown(names, cgroups, process),
        memoryBytes: ({ names }) => cgroups.memoryBytes(names.cgroup),
        makeStand: ({ names }) => makeStand(names),
        letGo: ({ names }) => letGo(names),
        dirtyBytes: ({ names }) => cgroups.dirtyBytes(names.cgroup),
      },
    });

    const volumeKeys = createVolumeKeys({
      instance,
      isAttached: (namespace) => sandboxes.hasTenant(namespace),
    });

    for (const { sandbox, record } of await adoptOrRemove({ instance, cgroups, make, log })) {
      sandboxes.enter(sandbox, record.namespace);
      if (record.namespace === null) pool.add(sandbox);
      log.info("a sandbox from before the start goes on", {
        sandbox: record.sandbox,
        namespace: record.namespace,
      });
    }

    const networks = createNetworks({ instance, config, run: runCommand, log });
    await refuseOverlap(networks, config, log);
    const runs = await createRuns({
      instance,
      config,
      runsc,
      rootImage: library.runImage,
      versions: { rootfs: library.manifest.run_rootfs, runsc: library.manifest.runsc },
      api,
      cgroups,
      networks,
      log,
      ceiling: options.ceiling ?? (() => config.runs),
      ...(options.unadmittedMs === undefined ? {} : { unadmittedMs: options.unadmittedMs }),
      ...(options.onRunStep === undefined ? {} : { onStep: options.onRunStep }),
    });

    const isClaimed = (id: SandboxId) => sandboxes.has(id) || booting.has(id);
    const cleanup = setInterval(() => {
      removeStrays(instance, cgroups, isClaimed, log).catch((error: unknown) =>
        log.error("the cleanup failed", { error }),
      );
    }, CLEANUP_EVERY_MS);
    cleanup.unref();

    const doctorDeps = {
      instance,
      config,
      cgroups,
      library,
      run: runCommand,
      networks,
      probeBoot,
      memoryAvailable,
    };
    const turns = createTurns();
    const answer = createAnswerer(
      operations,
      {
        ensureSandbox: ({ namespace }) => sandboxes.ensure(namespace),
        stopSandbox: async ({ sandbox }) => {
          await sandboxes.stop(sandbox);
          return {};
        },
        inspectSandbox: ({ sandbox }) => sandboxes.inspect(sandbox),
        freezeSandbox: async ({ namespace }) => ({ frozen: await sandboxes.freeze(namespace) }),
        thawSandbox: async ({ namespace }) => ({ stood: await sandboxes.thaw(namespace) }),
        unlockVolume: ({ namespace, key }) => volumeKeys.unlock(namespace, Buffer.from(key, "hex")),
        lockVolume: ({ namespace }) => volumeKeys.lock(namespace),
        unlockedVolumes: async () => ({ namespaces: await volumeKeys.list() }),
        writers: async () => ({ sandboxes: sandboxes.writers() }),
        status: async () => ({
          version: library.manifest.version,
          runsc: library.manifest.runsc,
          rootfs: library.manifest.rootfs,
          pool: pool.status(),
          sandboxes: sandboxes.list(),
          memory_available_bytes: memoryAvailable(),
        }),
        startRun: ({ run, spare }) => runs.start(run, spare),
        admitRun: async (args) => {
          await runs.admit(args);
          return {};
        },
        stopRun: async ({ run }) => {
          await runs.stop(run);
          return {};
        },
        inspectRun: ({ run }) => runs.inspect(run),
        listRuns: async () => ({ runs: runs.list() }),
        awaitEnds: async ({ timeout_ms }) => ({ ended: await runs.awaitEnds(timeout_ms) }),
        forgetRun: async ({ run }) => {
          await runs.forget(run);
          return {};
        },
        doctor: () => turns.run("doctor", async () => ({ checks: await examine(doctorDeps) })),
      },
      log,
    );
    const server = listenForLines({
      path: instance.sockets.sandboxd,
      gid: api.gid,
      maxLineBytes: MAX_LINE_BYTES,
      maxAnswerBytes: MAX_ANSWER_BYTES,
      allowedUids: new Set([0, api.uid]),
      answer,
      // An api that connects is one that listens, so spares can be booted again.
      onClient: (uid) => {
        if (uid === api.uid) pool.wake();
      },
      log,
    });
    pool.wake();

    /** When all is being stopped, api may be a moment behind us. */
    async function clientsLeave(): Promise<boolean> {
      const deadline = Date.now() + LEAVING_API_WAIT_MS;
      while (server.clients() > 0 && Date.now() < deadline) await Bun.sleep(10);
      return server.clients() === 0;
    }

    return {
      async stop(which) {
        server.close();
        clearInterval(cleanup);
        try {
          await pool.stop();
          await runs.close(which);
          if (which === "end") await sandboxes.stopAll();
          else if (await clientsLeave())
            await Promise.race([sandboxes.emptied(), Bun.sleep(GONE_API_WAIT_MS)]);
          await sandboxes.settled();
          await withoutApi(instance, async () => volumeKeys.lockAll()).catch((error: unknown) =>
            log.error("volumes stay unlocked", { error: explain(error) }),
          );
          cgroups.removeEmpty(cgroupParent(instance));
        } finally {
          server.drop();
          lock.release();
        }
      },
    };
  }
}

/**
 * A subnet that somebody has chosen and that is in use is a wrong configuration. With the usual one, which a second
 * instance has too, all but runs works: those are refused, one by one, for as long as it is in use.
 */
async function refuseOverlap(networks: Networks, config: Config, log: Log): Promise<void> {
  const problem = await networks.problem().catch((error: unknown) => {
    log.warn("this host can't give runs a network", { error: explain(error) });
    return null;
  });
  if (problem === null) return;
  if (config.runs.subnet !== DEFAULT_RUNS_SUBNET) throw new AppError("invalid", problem);
  log.error("no run can be started", { why: problem });
}

function makeDirectories(instance: Instance): void {
  ensureRunDirectories(instance);
  const { slots, bundles, runsc } = instance.sandboxd;
  for (const directory of [slots, bundles, runsc]) mkdirSync(directory, { recursive: true, mode: 0o700 });
}

function memoryAvailable(): number {
  const match = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "utf8"));
  if (match?.[1] === undefined) throw new Error("/proc/meminfo has no MemAvailable");
  return Number(match[1]) * 1024;
}

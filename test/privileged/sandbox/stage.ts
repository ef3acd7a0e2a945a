import {
  existsSync,
  chmodSync,
  chownSync,
  copyFileSync,
  mkdirSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { configSchema, type Config } from "../../../src/config/schema.ts";
import { namespaceId, type NamespaceId } from "../../../src/ids.ts";
import { peerCredentials } from "../../../src/kernel/peer.ts";
import { roleUser, TENANT } from "../../../src/kernel/users.ts";
import { openStderr } from "../../../src/kernel/stderr.ts";
import { createLog } from "../../../src/log.ts";
import { listenForSandboxes } from "../../../src/sandbox/connections.ts";
import { createExec, type ExecResult } from "../../../src/sandbox/exec.ts";
import { createSandboxdClient } from "../../../src/sandbox/sandboxd-client.ts";
import { createInstance, ensureRunDirectories } from "../../../src/instance/setup.ts";
import { hostState } from "../../fixtures/host-state.ts";
import { ensureUsers } from "../../fixtures/users.ts";
import { asUid } from "../sandboxd/stage.ts";

const REPO = join(import.meta.dir, "../../..");

function printed(argv: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv);
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr.toString()}`);
  return stdout.toString().trim();
}

/** PREFIX/lib/cofferdam with the real runsc and the real root image. */
export function realLibrary(): string {
  const lib = "/scratch/real-lib";
  // Another file of this suite may have made it.
  if (existsSync(lib)) return lib;
  mkdirSync(lib, { recursive: true });
  copyFileSync(printed([join(REPO, "build/runsc")]), join(lib, "runsc"));
  chmodSync(join(lib, "runsc"), 0o755);
  const image = join(printed([join(REPO, "rootfs/build")]), "rootfs.erofs");
  for (const name of ["rootfs.erofs", "run.erofs"]) symlinkSync(image, join(lib, name));
  writeFileSync(
    join(lib, "manifest.json"),
    JSON.stringify({
      version: "0.0.0-test",
      commit: null,
      bun: Bun.version,
      runsc: "test",
      rootfs: "sha256:test",
      run_rootfs: "sha256:test",
    }),
  );
  return lib;
}

export interface ShellResult extends Omit<ExecResult, "stdout" | "stderr"> {
  readonly stdout: string;
  readonly stderr: string;
}

/** An instance with sandboxd in a process of its own, and api's side of the sandboxes in this one. */
export async function stageExec(lib: string, settings: Partial<Config["exec"]> = {}) {
  ensureUsers();
  const api = roleUser("cofferdam");
  const instance = createInstance(`/scratch/data-${crypto.randomUUID().slice(0, 8)}`);
  ensureRunDirectories(instance);
  mkdirSync(instance.api.volumes, { recursive: true });
  chownSync(instance.api.volumes, api.uid, api.gid);
  const config = configSchema.parse({ exec: { pool: 1, memory_mb: 512, ...settings } });
  const verbose = process.env["VERBOSE"] === "1";
  const log = createLog("api", verbose ? openStderr().write : () => {});

  const connections = asUid(api.uid, () =>
    listenForSandboxes({
      path: instance.sockets.sandboxes,
      trustedUid: 0,
      peerUid: (fd) => peerCredentials(fd).uid,
      log,
    }),
  );

  const startSandboxd = async (): Promise<Bun.Subprocess<"ignore", "pipe", "inherit" | "ignore">> => {
    const script = join(REPO, "test/fixtures/sandboxd-process.ts");
    const child = Bun.spawn([process.execPath, script, instance.data, lib, JSON.stringify(config)], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: verbose ? "inherit" : "ignore",
    });
    const { value } = await child.stdout.getReader().read();
    if (value === undefined) throw new Error("sandboxd did not start; VERBOSE=1 shows why");
    return child;
  };
  let sandboxd = await startSandboxd();
  const client = createSandboxdClient({ path: instance.sockets.sandboxd, log });

  const live = (id: NamespaceId): string => join(instance.api.volumes, id, "live");
  const exec = createExec({
    config,
    sandboxd: client,
    connections,
    log,
    // What the volumes part does in api: nothing here but the directory.
    leases: {
      async acquire(id) {
        mkdirSync(live(id), { recursive: true, mode: 0o755 });
        chownSync(dirname(live(id)), api.uid, api.gid);
        chmodSync(dirname(live(id)), 0o700);
        chownSync(live(id), TENANT.uid, TENANT.gid);
        return () => {};
      },
    },
  });

  return {
    instance,
    config,
    exec,
    client,
    connections,
    live,
    namespace: () => namespaceId.make(),
    async sh(
      namespace: NamespaceId,
      command: string,
      more: { stdin?: Uint8Array; signal?: AbortSignal } = {},
    ): Promise<ShellResult> {
      const result = await exec.turn(namespace, more.signal, () =>
        exec.exec({ namespace, command, ...more }),
      );
      return {
        ...result,
        stdout: Buffer.from(result.stdout).toString(),
        stderr: Buffer.from(result.stderr).toString(),
      };
    },
    /** The namespace's sandbox as sandboxd knows it. */
    async sandboxOf(namespace: NamespaceId) {
      const { sandboxes } = await client.call("status", {});
      return sandboxes.find((sandbox) => sandbox.namespace === namespace)?.sandbox;
    },
    async killSandboxd(): Promise<void> {
      sandboxd.kill("SIGKILL");
      await sandboxd.exited;
    },
    async restartSandboxd(): Promise<void> {
      sandboxd = await startSandboxd();
    },
    /** What is left on the host when all has ended: nothing, or the test fails. */
    async end(): Promise<string[]> {
      await exec.close();
      client.close();
      connections.close();
      sandboxd.kill("SIGTERM");
      await sandboxd.exited;
      return hostState(instance.inst);
    },
  };
}

export type ExecStage = Awaited<ReturnType<typeof stageExec>>;

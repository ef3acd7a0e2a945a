import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { configSchema, type Config } from "../../../src/config/schema.ts";
import { namespaceId, type NamespaceId, type SandboxId } from "../../../src/ids.ts";
import type { Instance } from "../../../src/instance/instance.ts";
import { NR, syscall } from "../../../src/kernel/libc.ts";
import { TENANT, roleUser } from "../../../src/kernel/users.ts";
import { openStderr } from "../../../src/kernel/stderr.ts";
import { createLog, type Log } from "../../../src/log.ts";
import { sandboxHello } from "../../../src/protocol/sandboxd.ts";
import { createSandboxdClient, type SandboxdClient } from "../../../src/sandbox/sandboxd-client.ts";
import { startSandboxd, type SandboxdOptions } from "../../../src/sandboxd/sandboxd.ts";
import { createInstance, ensureRunDirectories } from "../../../src/instance/setup.ts";
import { hostState } from "../../fixtures/host-state.ts";
import { ensureUsers } from "../../fixtures/users.ts";

const REPO = join(import.meta.dir, "../../..");

function command(argv: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv);
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr.toString()}`);
  return stdout.toString().trim();
}

/**
 * A root image in which the init is a shell that runs what it reads on stdin: with the init's own capabilities, so it
 * stands for an init that a tenant has taken over.
 */
function buildImage(image: string): void {
  const tree = "/scratch/shell-tree";
  for (const dir of ["bin", "sbin", "home/agent", "proc", "dev", "tmp", "sys"])
    mkdirSync(join(tree, dir), { recursive: true });
  copyFileSync("/bin/busybox", join(tree, "bin/busybox"));
  chmodSync(join(tree, "bin/busybox"), 0o755);
  // A machine's own busybox may be a dynamic one.
  for (const [library] of Bun.spawnSync(["ldd", "/bin/busybox"]).stdout.toString().matchAll(/\/\S+/g)) {
    mkdirSync(join(tree, dirname(library)), { recursive: true });
    copyFileSync(library, join(tree, library));
  }
  for (const tool of command(["/bin/busybox", "--list"]).split("\n")) {
    if (tool !== "busybox") symlinkSync("busybox", join(tree, "bin", tool));
  }
  writeFileSync(join(tree, "sbin/cofferdam-init"), "#!/bin/sh\nexport PATH=/bin:/sbin\nexec /bin/sh\n", {
    mode: 0o755,
  });
  command(["mkfs.erofs", "-Enoinline_data", image, tree]);
}

function runsc(): string {
  const built = process.env["COFFERDAM_STAGE"];
  return built === undefined ? command([join(REPO, "build/runsc")]) : join(built, "lib/cofferdam/runsc");
}

/** PREFIX/lib/cofferdam with a real runsc, made by the first test file that asks. */
export function prepareLibrary(): string {
  const lib = "/scratch/shell-lib";
  if (existsSync(lib)) return lib;
  mkdirSync(lib);
  copyFileSync(runsc(), join(lib, "runsc"));
  chmodSync(join(lib, "runsc"), 0o755);
  buildImage(join(lib, "rootfs.erofs"));
  symlinkSync("rootfs.erofs", join(lib, "run.erofs"));
  const manifest = {
    version: "0.0.0-test",
    commit: "0".repeat(40),
    bun: Bun.version,
    runsc: "test",
    rootfs: "sha256:test",
    run_rootfs: "sha256:test",
  };
  writeFileSync(join(lib, "manifest.json"), JSON.stringify(manifest));
  return lib;
}

/** Acts as another uid, on this thread only, and comes back. */
export function asUid<T>(uid: number, act: () => T): T {
  const KEEP = 0xffffffff;
  syscall("setresuid", NR.setresuid, KEEP, uid, KEEP);
  try {
    return act();
  } finally {
    syscall("setresuid", NR.setresuid, KEEP, 0, KEEP);
  }
}

/** What a promise was rejected with; throws when it was not. */
export async function refusal(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return String(error);
  }
  throw new Error("it was not refused");
}

/** What became of a sandbox that is about to end, however long a busy machine takes for that. */
export async function fateOf(client: SandboxdClient, sandbox: SandboxId) {
  for (;;) {
    const fate = await client.call("inspectSandbox", { sandbox });
    if (fate.state === "gone") return fate;
  }
}

interface Talk {
  id: SandboxId | undefined;
  nonce: string;
  text: string;
  readonly waiting: (() => void)[];
  ended: boolean;
}

/** What api is to sandboxd: the listener of its sandbox socket, with api's uid. */
export function fakeApi(instance: Instance) {
  const arrived = new Map<SandboxId, Bun.Socket<Talk>>();
  const all = new Set<Bun.Socket<Talk>>();
  const wake = (talk: Talk) => {
    for (const go of talk.waiting.splice(0)) go();
  };
  rmSync(instance.sockets.sandboxes, { force: true });
  const listener = asUid(roleUser("cofferdam").uid, () =>
    Bun.listen<Talk>({
      unix: instance.sockets.sandboxes,
      socket: {
        open(socket) {
          socket.data = { id: undefined, nonce: "", text: "", waiting: [], ended: false };
          all.add(socket);
        },
        data(socket, chunk) {
          const talk = socket.data;
          talk.text += chunk.toString("utf8");
          if (talk.id === undefined && talk.text.includes("\n")) {
            const [line = "", ...rest] = talk.text.split("\n");
            const hello = sandboxHello.parse(JSON.parse(line));
            talk.id = hello.sandbox;
            talk.nonce = hello.nonce;
            talk.text = rest.join("\n");
            arrived.set(hello.sandbox, socket);
          }
          wake(talk);
        },
        close(socket) {
          all.delete(socket);
          socket.data.ended = true;
          wake(socket.data);
        },
      },
    }),
  );

  return {
    /** Runs shell commands as the sandbox's root and gives back what they print. */
    async shell(id: SandboxId, script: string): Promise<string> {
      const socket = arrived.get(id);
      if (socket === undefined) throw new Error(`${id} has not connected`);
      const talk = socket.data;
      const mark = `end-${crypto.randomUUID()}`;
      talk.text = "";
      socket.write(`{ ${script}\n} 2>&1; echo ${mark}\n`);
      while (!talk.text.includes(mark)) {
        if (talk.ended) throw new Error(`${id} ended: ${talk.text}`);
        await new Promise<void>((go) => talk.waiting.push(go));
      }
      return talk.text.slice(0, talk.text.indexOf(mark));
    },
    /** Sends without waiting for an answer. */
    send(id: SandboxId, script: string): void {
      arrived.get(id)?.write(`${script}\n`);
    },
    nonce: (id: SandboxId) => arrived.get(id)?.data.nonce,
    async ended(id: SandboxId): Promise<void> {
      const talk = arrived.get(id)?.data;
      if (talk === undefined) return;
      while (!talk.ended) await new Promise<void>((go) => talk.waiting.push(go));
    },
    connections: () => all.size,
    close(): void {
      listener.stop(true);
      for (const socket of all) socket.terminate();
    },
  };
}

export interface StageOptions {
  readonly exec?: Partial<Config["exec"]>;
  readonly log?: Log;
  readonly onStep?: SandboxdOptions["onStep"];
  readonly api?: boolean;
  /** Where its data directory is made. */
  readonly on?: string;
}

/** One instance with a sandboxd in this process, a stand-in for api and a client; `end` leaves nothing. */
export async function stage(lib: string, options: StageOptions = {}) {
  ensureUsers();
  const instance = createInstance(`${options.on ?? "/scratch"}/data-${crypto.randomUUID().slice(0, 8)}`);
  ensureRunDirectories(instance);
  mkdirSync(instance.api.volumes, { recursive: true });
  const { uid, gid } = roleUser("cofferdam");
  chownSync(instance.api.volumes, uid, gid);
  const config = configSchema.parse({ exec: { pool: 0, memory_mb: 256, pids: 256, ...options.exec } });
  const log =
    options.log ?? createLog("sandboxd", process.env["VERBOSE"] === "1" ? openStderr().write : () => {});
  const api = options.api === false ? undefined : fakeApi(instance);
  const settings = {
    instance,
    config,
    lib,
    log,
    ...(options.onStep === undefined ? {} : { onStep: options.onStep }),
  };
  const start = () => startSandboxd(settings);
  const sandboxd = await start();
  const client = createSandboxdClient({ path: instance.sockets.sandboxd, log });

  return {
    instance,
    config,
    log,
    client,
    sandboxd,
    start,
    get api() {
      if (api === undefined) throw new Error("this stage has no api");
      return api;
    },
    left: () => hostState(instance.inst),
    /** A namespace whose volume is as api makes it. */
    namespace(): NamespaceId {
      const id = namespaceId.make();
      const live = join(instance.api.volumes, id, "live");
      mkdirSync(live, { recursive: true, mode: 0o755 });
      chownSync(dirname(live), uid, gid);
      chmodSync(dirname(live), 0o700);
      chownSync(live, TENANT.uid, TENANT.gid);
      return id;
    },
    live: (id: NamespaceId) => join(instance.api.volumes, id, "live"),
    async end(): Promise<string[]> {
      client.close();
      await sandboxd.stop("end");
      api?.close();
      return hostState(instance.inst);
    },
  };
}

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** What somebody would use instead, each with the same root file system. */
export interface Peers {
  runscExec(argv: string[]): Promise<void>;
  runscRun(argv: string[]): Promise<void>;
  bwrap(argv: string[]): Promise<void>;
  bash(command: string): Promise<void>;
  close(): Promise<void>;
}

const ENV = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" };

async function run(argv: string[]): Promise<void> {
  const child = Bun.spawn(argv, { env: ENV, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [, stderr, code] = await Promise.all([child.stdout.bytes(), child.stderr.text(), child.exited]);
  if (code !== 0) throw new Error(`${argv.join(" ")} exited ${code}: ${stderr}`);
}

function bundle(dir: string, image: string, argv: string[]): string {
  mkdirSync(join(dir, "rootfs"), { recursive: true });
  const spec = {
    ociVersion: "1.1.0",
    process: {
      user: { uid: 10000, gid: 10000 },
      args: argv,
      env: ["PATH=/usr/bin:/bin"],
      cwd: "/",
      noNewPrivileges: true,
    },
    root: { path: "rootfs", readonly: true },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/tmp", type: "tmpfs", source: "tmpfs" },
    ],
    linux: { namespaces: ["pid", "mount", "ipc", "uts", "network"].map((type) => ({ type })) },
    annotations: {
      "dev.gvisor.spec.rootfs.source": image,
      "dev.gvisor.spec.rootfs.type": "erofs",
    },
  };
  writeFileSync(join(dir, "config.json"), JSON.stringify(spec));
  return dir;
}

export async function startPeers(stage: string, work: string): Promise<Peers> {
  const image = join(stage, "lib/cofferdam/rootfs.erofs");
  const runsc = [
    join(stage, "lib/cofferdam/runsc"),
    `--root=${join(work, "runsc")}`,
    "--platform=systrap",
    "--overlay2=none",
    "--network=none",
    "--directfs=false",
  ];
  const tree = join(work, "tree");
  mkdirSync(tree, { recursive: true });
  await run(["mount", "-t", "erofs", "-o", "loop,ro", image, tree]);
  const warm = bundle(join(work, "warm"), image, ["/bin/sleep", "1000000"]);
  const sleeper = Bun.spawn([...runsc, "run", "--bundle", warm, "bench-warm"], {
    env: ENV,
    stdout: "pipe",
    stderr: "pipe",
  });
  for (let tries = 0; ; tries++) {
    try {
      await run([...runsc, "exec", "bench-warm", "/bin/true"]);
      break;
    } catch (error) {
      if (tries > 100) throw error;
      await Bun.sleep(50);
    }
  }
  let cold = 0;
  return {
    runscExec: (argv) => run([...runsc, "exec", "bench-warm", ...argv]),
    runscRun: async (argv) => {
      const id = `bench-cold-${cold++}`;
      await run([...runsc, "run", "--bundle", bundle(join(work, id), image, argv), id]);
    },
    bwrap: (argv) =>
      run([
        "bwrap",
        "--unshare-all",
        "--ro-bind",
        tree,
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        ...argv,
      ]),
    bash: (command) => run(["bash", "-c", command]),
    close: async () => {
      sleeper.kill("SIGKILL");
      await sleeper.exited;
      await run(["umount", tree]);
    },
  };
}

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const ENV = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" };

/** One command after the other, as a script has them. */
async function script(lines: readonly string[]): Promise<void> {
  for (const line of lines) {
    const child = Bun.spawn(line.split(" "), { env: ENV, stdin: "ignore", stdout: "ignore", stderr: "pipe" });
    const [stderr, code] = await Promise.all([child.stderr.text(), child.exited]);
    if (code !== 0) throw new Error(`${line} exited ${code}: ${stderr}`);
  }
}

/**
 * What others do for a run: a netns with a veth by `ip`, rules by `iptables`, and a `runsc run`, each a process of its
 * own; no gateway, no record, nothing that goes on when it is killed. `start` resolves at the first byte of output; what it answers takes it down.
 */
export function plainRuns(stage: string, work: string) {
  const lib = join(stage, "lib/cofferdam");
  const root = join(work, "plain-runsc");
  let made = 0;

  function bundle(id: string, command: string): string {
    const dir = join(work, id);
    mkdirSync(join(dir, "rootfs"), { recursive: true });
    mkdirSync(join(dir, "work"));
    const spec = {
      ociVersion: "1.1.0",
      process: {
        user: { uid: 10000, gid: 10000 },
        args: ["bash", "-c", command],
        env: ["PATH=/usr/bin:/bin"],
        cwd: "/work",
        noNewPrivileges: true,
      },
      root: { path: "rootfs", readonly: true },
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/tmp", type: "tmpfs", source: "tmpfs" },
        { destination: "/work", type: "bind", source: join(dir, "work"), options: ["rbind", "rw"] },
      ],
      linux: {
        cgroupsPath: `/${id}`,
        resources: {
          memory: { limit: 2 ** 31 },
          pids: { limit: 2176 },
          cpu: { quota: 200_000, period: 100_000 },
        },
        namespaces: [
          ...["pid", "mount", "ipc", "uts"].map((type) => ({ type })),
          { type: "network", path: `/run/netns/${id}` },
        ],
      },
      annotations: {
        "dev.gvisor.spec.rootfs.source": join(lib, "run.erofs"),
        "dev.gvisor.spec.rootfs.type": "erofs",
      },
    };
    writeFileSync(join(dir, "config.json"), JSON.stringify(spec));
    return dir;
  }

  return async function start(command: string): Promise<() => Promise<void>> {
    const id = `plain${(made += 1)}`;
    const net = `10.99.${made % 250}`;
    await script([
      `ip netns add ${id}`,
      `ip link add ${id}h type veth peer name ${id}n`,
      `ip link set ${id}n netns ${id}`,
      `ip address add ${net}.1/24 dev ${id}h`,
      `ip link set ${id}h up`,
      `ip -n ${id} address add ${net}.2/24 dev ${id}n`,
      `ip -n ${id} link set ${id}n up`,
      `ip -n ${id} link set lo up`,
      `iptables -w -A INPUT -i ${id}h -p tcp --dport 4180 -d ${net}.1 -j ACCEPT`,
      `iptables -w -A INPUT -i ${id}h -j DROP`,
      `iptables -w -A FORWARD -i ${id}h -j DROP`,
    ]);
    const runsc = [
      join(lib, "runsc"),
      `--root=${root}`,
      "--platform=systrap",
      "--overlay2=none",
      "--network=sandbox",
      "--directfs=false",
      "--file-access-mounts=shared",
    ];
    const child = Bun.spawn([...runsc, "run", "--bundle", bundle(id, command), id], {
      env: ENV,
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const reader = child.stdout.getReader();
    const { done } = await reader.read();
    if (done) throw new Error(`runsc said nothing: ${await child.stderr.text()}`);
    return async () => {
      child.kill("SIGKILL");
      await child.exited;
      const left = Bun.spawn([...runsc, "delete", "--force", id], {
        env: ENV,
        stdout: "ignore",
        stderr: "ignore",
      });
      await left.exited;
      await script([
        `iptables -w -D FORWARD -i ${id}h -j DROP`,
        `iptables -w -D INPUT -i ${id}h -j DROP`,
        `iptables -w -D INPUT -i ${id}h -p tcp --dport 4180 -d ${net}.1 -j ACCEPT`,
        `ip netns delete ${id}`,
      ]);
    };
  };
}

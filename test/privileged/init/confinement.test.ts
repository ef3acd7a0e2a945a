import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { InitSandbox, mountInitRoot, runWithoutInit } from "../../fixtures/init-sandbox.ts";

/**
 * What a command may not do, tried from inside, and by the same program as the sandbox's first process, as root and without
 * the init's filter: there the kernel must give another answer, or the probe proves nothing.
 */
const probe = `
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    padded = [ctypes.c_long(a) if isinstance(a, int) else a for a in args] + [ctypes.c_long(0)] * (6 - len(args))
    result = libc.syscall(ctypes.c_long(number), *padded)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "ok"
def forked(probe):
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, probe().encode())
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(reader, 100).decode()
SIGCHLD = 17
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80
def clone(flags):
    result = libc.syscall(56, ctypes.c_long(flags | SIGCHLD), None, None, None, None)
    if result == 0: os._exit(0)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "ok"
tmp = b"/tmp"
probes = {
    "socket AF_INET": lambda: call(41, 2, 1, 0),
    "socket AF_INET udp": lambda: call(41, 2, 2, 0),
    "socket AF_INET high bits": lambda: call(41, 2 | 1 << 32, 1, 0),
    "socket AF_INET6": lambda: call(41, 10, 1, 0),
    "socket AF_NETLINK": lambda: call(41, 16, 3, 0),
    "socket AF_PACKET": lambda: call(41, 17, 3, 0),
    "socket AF_VSOCK": lambda: call(41, 40, 1, 0),
    "socketpair AF_INET": lambda: call(53, 2, 1, 0, ctypes.create_string_buffer(8)),
    "unshare user": lambda: call(272, NEWUSER),
    "unshare mount": lambda: call(272, NEWNS),
    "unshare pid": lambda: call(272, NEWPID),
    "unshare net": lambda: call(272, NEWNET),
    "unshare ipc": lambda: call(272, NEWIPC),
    "unshare uts": lambda: call(272, NEWUTS),
    "unshare time": lambda: call(272, NEWTIME),
    "clone user": lambda: clone(NEWUSER),
    "clone user and mount": lambda: clone(NEWUSER | NEWNS),
    "clone pid": lambda: clone(NEWPID),
    "clone net": lambda: clone(NEWNET),
    "clone3": lambda: call(435, 0, 0),
    "setns": lambda: call(308, -1, 0),
    "ptrace": lambda: call(101, 0),
    "process_vm_readv": lambda: call(310, os.getpid(), 0, 0, 0, 0, 0),
    "process_vm_writev": lambda: call(311, os.getpid(), 0, 0, 0, 0, 0),
    "pidfd_getfd": lambda: call(438, -1, 0, 0),
    "kcmp": lambda: call(312, os.getpid(), os.getpid(), 0, 0, 0),
    "mount": lambda: call(165, b"tmpfs", tmp, b"tmpfs", 0, None),
    "mount bind": lambda: call(165, b"/", tmp, None, 0x1000, None),
    "umount2": lambda: call(166, b"/proc", 2),
    "pivot_root": lambda: call(155, b"/nope", b"/nope"),
    "chroot": lambda: call(161, b"/nope"),
    "open_tree": lambda: call(428, -1, b"/nope", 0),
    "move_mount": lambda: call(429, -1, b"", -1, b"/nope", 0),
    "fsopen": lambda: call(430, b"tmpfs", 0),
    "fsconfig": lambda: call(431, -1, 0, None, None, 0),
    "fsmount": lambda: call(432, -1, 0, 0),
    "fspick": lambda: call(433, -1, b"/nope", 0),
    "mount_setattr": lambda: call(442, -1, b"/nope", 0, None, 0),
    "io_uring_setup": lambda: call(425, 0, None),
    "io_uring_enter": lambda: call(426, -1, 0, 0, 0, None),
    "io_uring_register": lambda: call(427, -1, 0, None, 0),
    "userfaultfd": lambda: call(323, 0),
    "add_key": lambda: call(248, b"user", b"x", b"y", 1, -3),
    "request_key": lambda: call(249, b"user", b"x", None, 0),
    "keyctl": lambda: call(250, 0, -3, 1),
    "bpf": lambda: call(321, 0, None, 0),
    "perf_event_open": lambda: call(298, None, 0, -1, -1, 0),
    "personality": lambda: call(135, 0x0400000),
    "swapon": lambda: call(167, b"/nope", 0),
    "reboot": lambda: call(169, 0, 0, 0),
    "kexec_load": lambda: call(246, 0, 0, None, 0),
    "init_module": lambda: call(175, None, 0, b""),
    "finit_module": lambda: call(313, -1, b"", 0),
    "delete_module": lambda: call(176, b"nope", 0),
    "sethostname": lambda: call(170, b"mine", 4),
    "open_by_handle_at": lambda: call(304, -1, None, 0),
    "name_to_handle_at": lambda: call(303, -1, b"/nope", None, None, 0),
    "fanotify_init": lambda: call(300, 0, 0),
    "move_pages": lambda: call(279, 0, 0, None, None, None, 0),
    "an unknown call": lambda: call(999),
    "an x32 call": lambda: call(0x40000000 | 39),
    # What stays allowed.
    "allowed: socket AF_UNIX": lambda: call(41, 1, 1, 0),
    "allowed: socketpair AF_UNIX": lambda: call(53, 1, 1, 0, ctypes.create_string_buffer(8)),
    "allowed: clone": lambda: clone(0),
    "allowed: unshare files": lambda: call(272, 0x400),
    "allowed: personality asked": lambda: call(135, 0xffffffff),
    "allowed: getpid": lambda: call(39),
}
for name, run in probes.items():
    print(name + "=" + forked(run))
`;

const parse = (text: string) =>
  new Map(
    text
      .trim()
      .split("\n")
      .map((line) => line.split("=") as [string, string]),
  );

let root: string;
let sandbox: InitSandbox;

beforeAll(async () => {
  const planted = "/scratch/confinement/built/usr/bin/setuid-id";
  mkdirSync(dirname(planted), { recursive: true });
  copyFileSync("/usr/bin/id", planted);
  chmodSync(planted, 0o4755);
  root = mountInitRoot("/scratch/confinement");
  sandbox = await InitSandbox.ready(root, [
    "--nproc",
    "60",
    "--fsize-mb",
    "2",
    "--tmp-mb",
    "3",
    "--spares",
    "2",
  ]);
  writeFileSync(join(sandbox.workspace, "probe.py"), probe);
});

afterAll(async () => {
  await sandbox.close();
});

describe("system calls", () => {
  test("are refused by the filter, and by nothing else", async () => {
    const inside = parse((await sandbox.run("python3 workspace/probe.py")).stdout);
    const outside = parse(
      runWithoutInit(root, { "probe.py": probe }, ["/usr/bin/python3", "/home/agent/workspace/probe.py"]),
    );
    expect(inside.size).toBeGreaterThan(60);
    const expected = new Map<string, string>();
    for (const name of inside.keys()) {
      if (name.startsWith("allowed: ")) expected.set(name, "ok");
      else if (name.startsWith("socket")) expected.set(name, "EACCES");
      else if (name === "clone3" || name.startsWith("an ")) expected.set(name, "ENOSYS");
      else expected.set(name, "EPERM");
    }
    expect(inside).toEqual(expected);
    // The controls. Where gVisor has no such call at all it says ENOSYS, which is not the filter's answer either.
    const unproven = [...inside].filter(
      ([name, answer]) =>
        !name.startsWith("allowed") && !name.startsWith("an ") && outside.get(name) === answer,
    );
    expect(unproven).toEqual([]);
    for (const name of [
      "socket AF_INET",
      "unshare user",
      "clone user",
      "ptrace",
      "mount",
      "mount bind",
      "sethostname",
    ]) {
      expect([name, outside.get(name)]).toEqual([name, "ok"]);
    }
  });

  test("of 32 bits do not exist", async () => {
    const { stdout } = await sandbox.run(`cat >/tmp/old.c <<'EOF' && gcc -o /tmp/old /tmp/old.c && /tmp/old
#include <stdio.h>
static int call(int number) { int result; __asm__ volatile("int $0x80" : "=a"(result) : "a"(number)); return result; }
int main(void) { printf("%d %d", call(20) > 0, call(359 /* socket */) > 0); return 0; }
EOF`);
    expect(stdout).toBe("0 0");
  });
});

describe("a command", () => {
  test("has no rights", async () => {
    const { stdout } = await sandbox.run("cat /proc/self/status; id; ulimit -n -u -f -c");
    expect(stdout).toContain("Uid:\t10000\t10000\t10000\t10000\nGid:\t10000\t10000\t10000\t10000\n");
    for (const set of ["Inh", "Prm", "Eff", "Bnd", "Amb"])
      expect(stdout).toContain(`Cap${set}:\t0000000000000000\n`);
    expect(stdout).toContain("NoNewPrivs:\t1\nSeccomp:\t2\n");
    expect(stdout).toContain("uid=10000");
    expect(stdout).toMatch(/groups=10000(\(\w+\))?\n/);
    const first = sandbox.look("/usr/bin/cat", "/proc/1/status");
    expect(first).toContain("Uid:\t0\t0\t0\t0\n");
    expect(first).toContain("CapEff:\t00000000002001e0\n");
  });

  test("writes to its workspace and its own tmpfs only", async () => {
    const { stdout } = await sandbox.run(
      "find / \\( -path /proc -o -path /sys \\) -prune -o \\( -type d -o -type f \\) -writable -print | sort; find /sys /proc/sys -writable",
    );
    expect(stdout).toBe("/dev/shm\n/home/agent/workspace\n/tmp\n/tmp/home\n");
    expect(
      (
        await sandbox.run(
          "touch /tmp/a /tmp/home/b ~/c && stat -c '%a %u %U' $HOME /tmp; pwd; ls -A /home/agent",
        )
      ).stdout,
    ).toMatch(/^700 10000 \w+\n1777 0 root\n\/home\/agent\nworkspace\n$/);
    expect((await sandbox.run("echo x >/home/agent/beside")).status).toBe(1);
  });

  test("is not root by a program that makes others so", async () => {
    expect((await sandbox.run("stat -c '%a %u' /usr/bin/setuid-id; setuid-id")).stdout).toMatch(
      /^4755 0\nuid=10000\S* gid=10000\S* groups=\S+\n$/,
    );
    const outside = Bun.spawnSync([
      ..."setpriv --reuid=10000 --regid=10000 --clear-groups".split(" "),
      `${root}/usr/bin/setuid-id`,
    ]);
    expect(outside.stdout.toString()).toContain("euid=0(root)");
  });

  test("opens its stdio again by name", async () => {
    const result = await sandbox.run("cat /dev/stdin >/dev/stdout; echo err >/dev/stderr", { stdin: "in" });
    expect(result).toEqual({ status: 0, flags: 0, stdout: "in", stderr: "err\n" });
  });

  test("without stdin has the real /dev/null", async () => {
    expect((await sandbox.run("readlink -f /proc/self/fd/0; stat -Lc %t:%T /dev/stdin; cat")).stdout).toBe(
      "/dev/null\n1:3\n",
    );
  });

  test("has a terminal when it makes one", async () => {
    const { stdout } = await sandbox.run("script -qec 'tty; echo hi' /dev/null </dev/null; ls /dev/pts");
    expect(stdout.replaceAll("\r", "")).toBe("/dev/pts/0\nhi\nptmx\n");
  });
});

describe("limits", () => {
  test("of processes stop a fork bomb, and only it", async () => {
    const bomb = sandbox.start("f() { f | f & f; }; f 2>/dev/null; sleep 100");
    await Bun.sleep(1000);
    sandbox.kill(bomb);
    expect(await bomb.result).toMatchObject({ status: 137, flags: 4 });
    expect((await sandbox.run("echo on")).stdout).toBe("on\n");
  });

  test("of file size", async () => {
    const { stdout, status } = await sandbox.run(
      "head -c 3000000 /dev/zero >workspace/big; echo $?; stat -c %s workspace/big",
    );
    expect([status, stdout]).toEqual([0, "153\n2097152\n"]);
  });

  test("of /tmp and /dev/shm", async () => {
    for (const place of ["/tmp", "/dev/shm"]) {
      const { stdout, stderr } = await sandbox.run(
        `for i in 1 2; do head -c 2000000 /dev/zero >${place}/$i; done; cat ${place}/? | wc -c`,
      );
      expect(stderr).toContain("No space left on device");
      expect(Number(stdout)).toBeLessThanOrEqual(3 * 1024 * 1024);
      expect(Number(stdout)).toBeGreaterThan(2_000_000);
    }
  });
});

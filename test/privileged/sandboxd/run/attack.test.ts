import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, readlinkSync, symlinkSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { runNames } from "../../../../src/sandboxd/run/names.ts";
import { runWithoutInit } from "../../../fixtures/init-sandbox.ts";
import { realLibrary } from "../../sandbox/stage.ts";
import { box, processesOf } from "./stage.ts";

let at: Awaited<ReturnType<typeof box>>;
beforeAll(async () => {
  at = await box({ runs: { memory_mb: 1024 } });
}, 300_000);
afterAll(async () => {
  expect(await at.end()).toEqual([]);
});

/** Every call that a run must not make, with arguments that do nothing: number and name, as `syscall(2)` takes them. */
const FORBIDDEN = {
  mount: 165,
  umount2: 166,
  pivot_root: 155,
  chroot: 161,
  fsopen: 430,
  fsconfig: 431,
  fsmount: 432,
  fspick: 433,
  open_tree: 428,
  move_mount: 429,
  mount_setattr: 442,
  kexec_load: 246,
  kexec_file_load: 320,
  init_module: 175,
  finit_module: 313,
  delete_module: 176,
  reboot: 169,
  swapon: 167,
  swapoff: 168,
  acct: 163,
  quotactl: 179,
  settimeofday: 164,
  clock_settime: 227,
  clock_adjtime: 305,
  adjtimex: 159,
  iopl: 172,
  ioperm: 173,
  syslog: 103,
  sethostname: 170,
  setdomainname: 171,
  bpf: 321,
  perf_event_open: 298,
  ptrace: 101,
  process_vm_readv: 310,
  process_vm_writev: 311,
  kcmp: 312,
  pidfd_getfd: 438,
  userfaultfd: 323,
  add_key: 248,
  request_key: 249,
  keyctl: 250,
  setns: 308,
  clone3: 435,
  io_uring_setup: 425,
  io_uring_enter: 426,
  io_uring_register: 427,
  open_by_handle_at: 304,
  name_to_handle_at: 303,
  fanotify_init: 300,
  modify_ldt: 154,
  vhangup: 153,
} as const;

const PROBE = `
import ctypes, errno, json, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    padded = [ctypes.c_long(a) for a in args] + [ctypes.c_long(0)] * (6 - len(args))
    result = libc.syscall(ctypes.c_long(number), *padded)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "ok"
def forked(act):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, act().encode())
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(reader, 100).decode()
def clone(flags):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(56), ctypes.c_long(flags | 17), *[ctypes.c_long(0)] * 4)
    if result == 0: os._exit(0)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "ok"
forbidden = json.loads('''${JSON.stringify(FORBIDDEN)}''')
answers = {name: forked(lambda: call(number, -1, -1, -1)) for name, number in forbidden.items()}
for name, flag in {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000, "uts": 0x4000000}.items():
    answers["unshare " + name] = forked(lambda: call(272, flag))
    answers["clone " + name] = forked(lambda: clone(flag))
answers["socket AF_PACKET"] = call(41, 17, 3, 0)
answers["socket AF_INET raw"] = call(41, 2, 3, 1)
answers["socket AF_VSOCK"] = call(41, 40, 1, 0)
allowed = {"socket AF_INET": call(41, 2, 1, 0), "socket AF_UNIX": call(41, 1, 1, 0), "getpid": call(39)}
print(json.dumps([answers, allowed]))
`;

type Answers = Record<string, string>;

describe("system calls", () => {
  test("that could hurt are refused by the filters, and by nothing else", async () => {
    const ran = await at.ran(`cat >/tmp/probe.py <<'E'\n${PROBE}\nE\npython3 /tmp/probe.py`);
    const [answers, allowed] = JSON.parse(ran.out) as [Answers, Answers];
    const image = join(realLibrary(), "rootfs.erofs");
    const control = runWithoutInit(image, { "probe.py": PROBE }, [
      "/usr/bin/python3",
      "/home/agent/workspace/probe.py",
    ]);
    // As root with capabilities and without a filter, the same kernel answers something else, or has no such call.
    const [unconfined] = JSON.parse(control) as [Answers, Answers];

    const refused = Object.entries(answers).filter(([, answer]) => answer === "EPERM" || answer === "ENOSYS");
    expect(Object.keys(answers).filter((name) => !refused.some(([other]) => other === name))).toEqual([]);
    const proven = refused.filter(([name, answer]) => unconfined[name] !== answer).map(([name]) => name);
    const unproven = Object.keys(answers).filter((name) => !proven.includes(name));
    expect(unproven.filter((name) => unconfined[name] !== "ENOSYS" && unconfined[name] !== "EPERM")).toEqual(
      [],
    );
    expect(proven.length).toBeGreaterThan(55);
    expect(allowed).toEqual({ "socket AF_INET": "ok", "socket AF_UNIX": "ok", getpid: "ok" });
  });

  test("that libc falls back from are answered as not there, so that threads work", async () => {
    const ran = await at.ran(
      `python3 -c 'import threading; t = threading.Thread(target=print, args=("thread",)); t.start(); t.join()'; node -e 'new (require("worker_threads").Worker)("console.log(1)", { eval: true })'`,
    );
    expect(ran).toMatchObject({ out: "thread\n1\n", exit_code: 0 });
  });
});

test("a command has no rights: from the first process on", async () => {
  const { out } = await at.ran(`
    for pid in 1 self; do grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp:)' /proc/$pid/status | tr -s '\\t ' ' '; done
    ulimit -Hn; ulimit -Hu; ulimit -Hc; umask; id -un`);
  const zeros = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map((set) => `${set}: 0000000000000000`);
  const one = ["Uid: 10000 10000 10000 10000", "Gid: 10000 10000 10000 10000", "Groups:"];
  const process = [...one, ...zeros, "NoNewPrivs: 1", "Seccomp: 2"];
  const lines = out.split("\n").map((line) => line.trim());
  expect(lines).toEqual([...process, ...process, "1024", "512", "0", "0022", "agent", ""]);
});

test("a command can write to /work, /tmp, /dev/shm and its HOME only", async () => {
  const { out } = await at.ran(`
    find / -path /proc -prune -o -type d -writable -print 2>/dev/null | sort
    for path in / /usr /etc /sbin/cofferdam-run-init /dev /home /work /tmp /dev/shm /home/agent; do
      [ -d $path ] && path=$path/x
      (echo x >$path) 2>/dev/null && echo wrote $path
    done
    (mknod /work/device c 1 3 || mknod /tmp/device b 253 0) 2>/dev/null && echo device`);
  expect(out.split("\n").filter(Boolean)).toEqual([
    "/dev/shm",
    "/home/agent",
    "/tmp",
    "/work",
    "wrote /work/x",
    "wrote /tmp/x",
    "wrote /dev/shm/x",
    "wrote /home/agent/x",
  ]);
});

test("/proc and /sys show nothing of the host and change nothing", async () => {
  const { out } = await at.ran(`
    for path in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/latency_stats /proc/acpi /proc/scsi; do
      [ -e $path ] && echo there: $path; done
    ls -A /sys/firmware
    for path in /proc/sysrq-trigger /proc/sys/kernel/hostname /proc/sys/fs/nr_open /proc/sys/vm/overcommit_memory \\
      /proc/sys/net/ipv4/ip_forward /proc/1/oom_score_adj /sys/kernel/x; do
      (echo 1 >$path) 2>/dev/null && echo wrote $path; done
    for path in /proc/1/fd/0 /proc/1/mem /proc/1/environ /proc/1/root/etc; do
      (exec 5<$path) 2>/dev/null && echo opened $path; done
    hostname; ls /proc | grep -c '^[0-9]'`);
  // The control: here they are.
  const here = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi"].filter((path) =>
    existsSync(path),
  );
  expect(here.length).toBeGreaterThan(0);
  expect(hostname()).not.toBe("sandbox");
  const [name, processes, ...rest] = out.split("\n");
  expect([name, ...rest]).toEqual(["sandbox", ""]);
  expect(Number(processes)).toBeLessThan(8);
});

test("no path of the host is there: neither plain nor by a link in the worktree", async () => {
  const secret = "/scratch/host-secret";
  await Bun.write(secret, "of the host");
  const run = await at.boot();
  for (const [name, target] of [
    ["absolute", secret],
    ["relative", `../../../../../../../..${secret}`],
    ["run", "/run/cofferdam"],
    ["fd", "/proc/self/root/../../scratch/host-secret"],
  ])
    symlinkSync(target ?? "", join(run.work, name ?? ""));
  await at.admit(run);
  run.sh(
    `cat absolute relative fd run/* ${secret} 2>/dev/null; ls -d /scratch /run/cofferdam /var/lib/cofferdam 2>/dev/null; echo over`,
  );
  await at.fate(run);
  expect(run.output().out).toBe("over\n");
  expect(readFileSync(readlinkSync(join(run.work, "absolute")), "utf8")).toBe("of the host");
  await at.forget(run);
});

test("two runs share nothing: files, shared memory, abstract sockets, processes, queues", async () => {
  const [one, other] = [await at.boot(), await at.boot()];
  const leave = `
    echo secret | tee /tmp/left /dev/shm/left ~/left >/work/left
    python3 -c '
import ctypes, os, socket, time
libc = ctypes.CDLL(None)
print("made", libc.shmget(4711, 4096, 0o1666) >= 0, libc.msgget(4711, 0o1666) >= 0, flush=True)
s = socket.socket(socket.AF_UNIX); s.bind("\\0left"); s.listen()
print("ready", flush=True); time.sleep(60)' &
    wait`;
  const look = `
    cat /tmp/left /dev/shm/left ~/left /work/left 2>/dev/null
    python3 -c '
import ctypes, socket
libc = ctypes.CDLL(None)
print(libc.shmget(4711, 4096, 0o666) >= 0, libc.msgget(4711, 0o666) >= 0)
s = socket.socket(socket.AF_UNIX)
print(s.connect_ex("\\0left") == 0)'
    ps -e -o args | grep -q 'time.slee[p]' && echo seen || echo unseen`;
  await Promise.all([at.admit(one), at.admit(other)]);
  one.sh(`(${leave}) & sleep 1; until [ -f /work/go ]; do sleep 0.05; done; ${look}; exit 0`);
  await one.saw("ready");
  other.sh(look);
  await at.fate(other);
  expect(other.output().out).toBe("False False\nFalse\nunseen\n");
  // The control: in the run that left it, all of it is there.
  await Bun.write(join(one.work, "go"), "");
  await at.fate(one);
  expect(one.output().out.split("ready\n")[1]).toBe(
    "secret\nsecret\nsecret\nsecret\nTrue True\nTrue\nseen\n",
  );
  await Promise.all([at.forget(one), at.forget(other)]);
}, 120_000);

describe("on the host", () => {
  test("sandbox and gofer are confined, and nothing tells what runs in there", async () => {
    const run = await at.boot();
    await at.admit(run);
    const secret = `sk-ant-${"5".repeat(64)}`;
    run.launch({
      argv: ["bash", "-c", 'echo "${ANTHROPIC_API_KEY:0:7}"; sleep 60 # not-to-be-told'],
      env: { PATH: "/usr/bin:/bin", ANTHROPIC_API_KEY: secret },
    });
    await run.saw("sk-ant-");
    const found = processesOf(run.id);
    const status = (name: RegExp) => statusOf(found.find(({ argv }) => name.test(argv))?.pid ?? 0);
    const sandbox = status(/^runsc-sandbox /);
    expect(sandbox).toMatchObject({
      Uid: "65534",
      CapPrm: 0n,
      CapEff: 0n,
      CapBnd: 0n,
      NoNewPrivs: "1",
      Seccomp: "2",
    });
    // It opens files for the sandbox: what it needs for that it has in a namespace in which other files are nobody's.
    const gofer = status(/^runsc-gofer /);
    expect(gofer).toMatchObject({ Uid: "65534", NoNewPrivs: "1", Seccomp: "2" });
    expect(capabilities(gofer.CapEff)).toEqual([0, 1, 2, 3, 4, 18]);
    const usersOf = (pid: number | string) => readlinkSync(`/proc/${pid}/ns/user`);
    for (const { pid } of [sandbox, gofer]) expect(usersOf(pid)).not.toBe(usersOf("self"));
    const ids = readFileSync(`/proc/${gofer.pid}/uid_map`, "utf8").trim().split(/\s+/);
    expect(ids.map(Number)).toEqual([0, 65_534, 1, 10_000, 10_000, 1]);
    expect(mountsOf(gofer.pid)).toEqual(["/work"]);
    // The control: their parent has neither filter nor limits.
    const shim = status(/^\/bin\/sh /);
    expect(shim).toMatchObject({ Uid: "0", NoNewPrivs: "0", Seccomp: "0" });

    const told = found.map(({ pid, argv }) => argv + readFileSync(`/proc/${pid}/environ`, "utf8")).join("\n");
    const names = runNames(at.instance, run.id);
    const written = [names.spec, names.record, names.log]
      .map((file) => readFileSync(file, "utf8"))
      .join("\n");
    for (const text of [secret, "not-to-be-told"]) expect(told + written).not.toContain(text);
    expect(told).toContain("--oci-seccomp");
    await at.client.call("stopRun", { run: run.id });
    await at.forget(run);
  });

  test("a fork bomb fails by calls, and its sandbox lives", async () => {
    const bomb = await at.boot();
    await at.admit(bomb);
    bomb.sh("bomb() { bomb | bomb & }; (bomb) 2>/dev/null; sleep 1; echo alive", { processes: 100 });
    await bomb.saw("alive");
    expect(await at.fate(bomb)).toMatchObject({ cause: "exit", exit_code: 0 });
    await at.forget(bomb);
    const counted = await at.ran(
      `python3 -c '
import subprocess
made = []
try:
    while len(made) < 2000: made.append(subprocess.Popen(["sleep", "60"]))
except BlockingIOError: print("refused", len(made))'`,
    );
    expect(counted).toMatchObject({ cause: "exit", exit_code: 0 });
    expect(Number(counted.out.split(" ")[1])).toBeGreaterThan(400);
    expect(Number(counted.out.split(" ")[1])).toBeLessThan(513);
  }, 60_000);

  test("a memory bomb ends its own run, and the one beside it notices nothing", async () => {
    const beside = await at.begin("echo up; sleep 60");
    await beside.saw("up");
    const bomb = await at.begin(
      "dd if=/dev/zero of=/dev/shm/x bs=1M count=110 status=none; python3 -c 'x = b\"1\" * (1 << 30)'",
      {
        memory_mb: 128,
      },
    );
    expect(await at.fate(bomb)).toMatchObject({ cause: "oom" });
    await at.forget(bomb);
    expect(await at.client.call("inspectRun", { run: beside.id })).toMatchObject({ state: "running" });
    await at.client.call("stopRun", { run: beside.id });
    await at.forget(beside);
  }, 60_000);
});

function statusOf(pid: number) {
  const text = readFileSync(`/proc/${pid}/status`, "utf8");
  const field = (name: string) => new RegExp(`^${name}:\\s*(\\S+)`, "m").exec(text)?.[1] ?? "";
  const set = (name: string) => BigInt(`0x${field(name)}`);
  return {
    pid,
    Uid: field("Uid"),
    CapPrm: set("CapPrm"),
    CapEff: set("CapEff"),
    CapBnd: set("CapBnd"),
    NoNewPrivs: field("NoNewPrivs"),
    Seccomp: field("Seccomp"),
  };
}

function capabilities(set: bigint): number[] {
  return Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => ((set >> BigInt(bit)) & 1n) === 1n);
}

function mountsOf(pid: number): string[] {
  const lines = readFileSync(`/proc/${pid}/mounts`, "utf8").split("\n");
  return lines.map((line) => line.split(" ")[1] ?? "").filter(Boolean);
}

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ExitFlag, MAX_CALLS } from "../../../src/protocol/frames.ts";
import { InitSandbox, mountInitRoot } from "../../fixtures/init-sandbox.ts";
import { until } from "../../fixtures/until.ts";

let sandbox: InitSandbox;

beforeAll(async () => {
  sandbox = await InitSandbox.ready(mountInitRoot("/scratch/calls"));
});

afterAll(async () => {
  expect(await sandbox.close()).toBe(0);
});

const sha256 = (bytes: string | Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const inWorkspace = (name: string) => join(sandbox.workspace, name);

/** Processes that uid 10000 has in the sandbox, whatever their namespace. */
function tenantProcesses(): number {
  const script =
    'n=0; for s in /proc/[0-9]*/status; do grep -qs "^Uid:.10000" $s && n=$((n+1)); done; echo $n';
  return Number(sandbox.look("/usr/bin/bash", "-c", `PATH=/usr/bin; ${script}`));
}

function initDescriptors(): number {
  return Number(sandbox.look("/usr/bin/bash", "-c", "set -- /proc/1/fd/*; echo $#"));
}

async function settled(): Promise<void> {
  await until(() => tenantProcesses() === 2);
}

describe("stdin", () => {
  test("of 1 MiB arrives whole, and ends", async () => {
    const input = Buffer.alloc(1024 * 1024, "0123456789abcdef\n");
    const { stdout } = await sandbox.run("sha256sum", { stdin: input });
    expect(stdout).toBe(`${sha256(input)}  -\n`);
  });

  test("may be left unread, or be closed", async () => {
    const input = Buffer.alloc(1024 * 1024, "x");
    expect(await sandbox.run("echo done", { stdin: input })).toMatchObject({ status: 0, stdout: "done\n" });
    expect(await sandbox.run("exec <&-; sleep 0.1; echo done", { stdin: input })).toMatchObject({
      stdout: "done\n",
    });
    expect(await sandbox.run("head -c 3", { stdin: input })).toMatchObject({ stdout: "xxx" });
  });

  test("comes in pieces, as they are sent", async () => {
    const call = sandbox.startOpen("read a; echo got $a; read b; echo got $b; cat; echo end");
    sandbox.input(call, "one\n");
    await call.started;
    sandbox.input(call, "two\nrest");
    sandbox.input(call, "");
    expect(await call.result).toMatchObject({ stdout: "got one\ngot two\nrestend\n" });
    // A piece that crosses the end.
    sandbox.input(call, "late");
    sandbox.kill(call);
    expect(await sandbox.run("echo on")).toMatchObject({ stdout: "on\n" });
  });
});

describe("output", () => {
  test("that was written before the end is delivered", async () => {
    for (let i = 0; i < 50; i++) {
      const { stdout, stderr } = await sandbox.run(
        "printf 'a%.0s' {1..30000}; printf 'b%.0s' {1..30000} >&2; kill -9 $$",
      );
      expect([stdout.length, stderr.length]).toEqual([30_000, 30_000]);
    }
  });

  test("of any size arrives whole, in order", async () => {
    const { stdout, flags } = await sandbox.run("seq 1 1000000", { outputCap: 100 * 1024 * 1024 });
    expect(sha256(stdout)).toBe(sha256(Array.from({ length: 1_000_000 }, (_, i) => `${i + 1}\n`).join("")));
    expect(flags).toBe(0);
  });

  test("over its cap is dropped, and the command goes on", async () => {
    const { stdout, stderr, status, flags } = await sandbox.run(
      "head -c 3000000 /dev/zero; echo wrote >&2; touch workspace/went-on; exit 3",
      { outputCap: 1000 },
    );
    expect([stdout.length, stderr, status, flags]).toEqual([1000, "wrote\n", 3, ExitFlag.StdoutTruncated]);
    expect(statSync(inWorkspace("went-on")).uid).toBe(10000);
    expect(await sandbox.run("echo 12345; echo 1234567890 >&2", { outputCap: 6 })).toEqual({
      status: 0,
      flags: ExitFlag.StderrTruncated,
      stdout: "12345\n",
      stderr: "123456",
    });
    expect(await sandbox.run("echo hi", { outputCap: 0 })).toMatchObject({ stdout: "", flags: 1 });
    expect(await sandbox.run("true", { outputCap: 0 })).toMatchObject({ flags: 0 });
  });

  test("waits in the commands while nobody reads it", async () => {
    sandbox.pause();
    const flood = sandbox.start("head -c 30000000 /dev/zero; echo end >&2", { outputCap: 50_000_000 });
    const killed = sandbox.start("echo >workspace/started; yes", { outputCap: 4_000_000_000 });
    while (!(await Bun.file(inWorkspace("started")).exists())) await Bun.sleep(10);
    await Bun.sleep(300);
    const memory = /VmRSS:\s+(\d+)/.exec(sandbox.look("/usr/bin/cat", "/proc/1/status"))?.[1];
    expect(Number(memory)).toBeLessThan(8 * 1024);
    sandbox.kill(killed);
    sandbox.resume();
    expect(await killed.result).toMatchObject({ status: 137, flags: ExitFlag.Killed });
    const { stdout, stderr } = await flood.result;
    expect([stdout.length, stderr]).toEqual([30_000_000, "end\n"]);
  });

  test("of one call does not hold up another's", async () => {
    const flood = sandbox.start("yes", { outputCap: 1 });
    await flood.started;
    for (let i = 0; i < 20; i++) expect((await sandbox.run(`echo ${i}`)).stdout).toBe(`${i}\n`);
    sandbox.kill(flood);
    expect(await flood.result).toMatchObject({
      status: 137,
      flags: ExitFlag.Killed | ExitFlag.StdoutTruncated,
    });
  });
});

describe("the end of a call", () => {
  const daemon = `python3 - <<'EOF'
import os, signal, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(s, signal.SIG_IGN)
out = os.open("/home/agent/workspace/ticks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for fd in (0, 1, 2): os.close(fd)
while True:
    os.write(out, b".")
    time.sleep(0.002)
EOF
`;
  const ticks = () => statSync(inWorkspace("ticks")).size;

  test("is the end of all that it started", async () => {
    const call = sandbox.start(
      `${daemon} until [ -s workspace/ticks ]; do sleep 0.01; done; echo going; sleep 0.2; echo $$`,
    );
    await call.started;
    const early = ticks();
    await call.result;
    const end = ticks();
    // The control: it did run, and went on while its call did.
    expect(end).toBeGreaterThan(early);
    await Bun.sleep(200);
    expect(ticks()).toBe(end);
  });

  test("comes when the shell is done, not when the pipes are", async () => {
    const { stdout } = await sandbox.run(
      "sleep 1000 & setsid sleep 1000 & (trap '' TERM; sleep 1000) & echo hi",
    );
    expect(stdout).toBe("hi\n");
    await settled();
    expect(tenantProcesses()).toBe(2);
  });

  test("comes after the death of many", async () => {
    for (let i = 0; i < 3; i++) {
      const { stdout, stderr } = await sandbox.run(
        "for i in {1..60}; do (trap '' TERM; while :; do echo x >>workspace/many; sleep 0.5; done) & done; echo hi",
      );
      expect([stdout, stderr]).toEqual(["hi\n", ""]);
      const size = statSync(inWorkspace("many")).size;
      await Bun.sleep(600);
      expect(statSync(inWorkspace("many")).size).toBe(size);
    }
  });

  test("comes on a kill, whatever the command does about it", async () => {
    const call = sandbox.start(
      "trap '' TERM HUP INT; setsid sh -c 'echo deep; sleep 1000' & while :; do sleep 1; done",
    );
    await call.started;
    sandbox.kill(call);
    expect(await call.result).toEqual({ status: 137, flags: ExitFlag.Killed, stdout: "deep\n", stderr: "" });
    const stopped = sandbox.start("echo stopping; kill -STOP $$");
    await stopped.started;
    sandbox.kill(stopped);
    expect(await stopped.result).toMatchObject({ status: 137 });
  });

  test("comes on a kill that arrives with the command", async () => {
    for (let i = 0; i < 20; i++) {
      const call = sandbox.start("sleep 1000");
      sandbox.kill(call);
      expect(await call.result).toMatchObject({ status: 137, flags: ExitFlag.Killed });
    }
  });

  test("comes although another call holds its stdout, and reads it too", async () => {
    const send = `
import socket, os
s = socket.socket(socket.AF_UNIX)
while True:
    try: s.connect("/home/agent/workspace/pass"); break
    except OSError: pass
reader = os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK)
socket.send_fds(s, [b"x"], [1, reader])
s.recv(1)
os.write(1, b"last words")
`;
    const keep = `
import socket, os, threading
s = socket.socket(socket.AF_UNIX)
s.bind("/home/agent/workspace/pass")
s.listen()
c, _ = s.accept()
_, fds, _, _ = socket.recv_fds(c, 1, 2)
os.set_blocking(fds[0], False)
print("have it", flush=True)
c.send(b"x")
def read():
    while True:
        try: os.read(fds[1], 65536)
        except BlockingIOError: pass
threading.Thread(target=read, daemon=True).start()
while True:
    try: os.write(fds[0], b"not its own")
    except BlockingIOError: pass
`;
    writeFileSync(inWorkspace("send.py"), send);
    writeFileSync(inWorkspace("keep.py"), keep);
    const keeper = sandbox.start("python3 workspace/keep.py");
    const sender = sandbox.start("python3 workspace/send.py");
    await keeper.started;
    expect(await sender.result).toMatchObject({ status: 0 });
    sandbox.kill(keeper);
    expect(await keeper.result).toMatchObject({ stdout: "have it\n" });
  });

  test("leaves no process and no descriptor", async () => {
    await settled();
    const before = initDescriptors();
    for (let i = 0; i < 40; i++)
      await sandbox.run("sleep 100 & cat & head -c 100000 /dev/zero", { stdin: "x" });
    await settled();
    expect(tenantProcesses()).toBe(2);
    expect(initDescriptors()).toBe(before);
  });
});

describe("what a call leaves", () => {
  const ipc = (call: string) =>
    `python3 -c 'import ctypes; assert ctypes.CDLL(None).${call} >= 0; print("there")'`;

  const connect = `python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(chr(0) + "left"); print("there")'`;

  /** Writes to a place, and reads it. In one call the second sees what the first did: that is the control. */
  const places: [string, string, string][] = [
    ["/tmp", "echo secret >/tmp/left", "cat /tmp/left"],
    ["HOME", "echo secret >~/left", "cat ~/left"],
    ["/dev/shm", "echo secret >/dev/shm/left", "cat /dev/shm/left"],
    ["System V shared memory", ipc("shmget(7, 4096, 0o1600)"), ipc("shmget(7, 0, 0)")],
    ["System V semaphores", ipc("semget(7, 1, 0o1600)"), ipc("semget(7, 0, 0)")],
    ["System V message queues", ipc("msgget(7, 0o1600)"), ipc("msgget(7, 0)")],
    ["POSIX message queues", ipc('mq_open(b"/left", 0o102, 0o600, None)'), ipc('mq_open(b"/left", 0)')],
    [
      "abstract sockets",
      `python3 -c '
import socket, time
s = socket.socket(socket.AF_UNIX); s.bind(chr(0) + "left"); s.listen(); time.sleep(60)' & until ${connect} >/dev/null 2>&1; do sleep 0.05; done`,
      connect,
    ],
    ["a process", "sleep 1234 & until pgrep -x sleep >/dev/null; do :; done", "pgrep -x sleep"],
    [
      "a terminal",
      "script -qc 'sleep 100' /dev/null >/dev/null </dev/null & until [ -e /dev/pts/0 ]; do sleep 0.05; done",
      "ls /dev/pts/0",
    ],
  ];

  for (const [name, write, read] of places) {
    test(`is not there for the next, nor for one beside it: ${name}`, async () => {
      const together = await sandbox.run(`${write}\n${read}`);
      expect([together.status, together.stderr]).toEqual([0, ""]);
      expect(together.stdout).not.toBe("");
      const after = await sandbox.run(read);
      expect(after.status).not.toBe(0);
      const beside = sandbox.start(`${write}\necho wrote; sleep 1000`);
      await beside.started;
      expect((await sandbox.run(read)).status).not.toBe(0);
      sandbox.kill(beside);
      await beside.result;
    });
  }
});

describe("calls beside each other", () => {
  test("cannot reach each other's processes, nor the init", async () => {
    const victim = sandbox.start("echo $$; sleep 1000");
    await victim.started;
    const { stdout } = await sandbox.run(`
ls /proc | grep -c '^[0-9]'
kill -9 -1
python3 - <<'EOF'
import os
print(sum(1 for pid in range(2, 5000) if os.path.exists(f"/proc/{pid}/status") and pid != os.getpid()))
for pid in range(1, 5000):
    if pid in (os.getpid(), os.getppid()): continue
    try: os.kill(pid, 9); print("killed", pid)
    except ProcessLookupError: pass
print(os.readlink("/proc/1/exe"))
EOF`);
    expect(stdout).toMatch(/^\d\n0\n\/usr\/bin\/bash\n$/);
    sandbox.kill(victim);
    expect(await victim.result).toMatchObject({ flags: ExitFlag.Killed });
  });

  test("never mix their bytes", async () => {
    const results = await Promise.all(
      Array.from({ length: MAX_CALLS }, (_, i) =>
        sandbox.run(`read x; for i in {1..200}; do echo ${i}-$x-$i; echo e${i} >&2; done; exit ${i}`, {
          stdin: `in${i}\n`,
        }),
      ),
    );
    for (const [i, { status, stdout, stderr }] of results.entries()) {
      expect(status).toBe(i);
      expect(stdout).toBe(Array.from({ length: 200 }, (_, k) => `${i}-in${i}-${k + 1}\n`).join(""));
      expect(stderr).toBe(`e${i}\n`.repeat(200));
    }
    await settled();
  });

  test("find their files where api does", async () => {
    await sandbox.run("cd workspace && mkdir -p a && echo hi >a/b");
    expect(readFileSync(inWorkspace("a/b"), "utf8")).toBe("hi\n");
    writeFileSync(inWorkspace("a/c"), "from outside");
    expect((await sandbox.run("cat workspace/a/c")).stdout).toBe("from outside");
  });
});

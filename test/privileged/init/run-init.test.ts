import { afterAll, beforeAll, expect, test } from "bun:test";
import { encodeData, FrameType, MAX_DATA_BYTES } from "../../../src/protocol/launch.ts";
import type { StagedRun } from "../../fixtures/run-stage.ts";
import { box } from "../sandboxd/run/stage.ts";

let at: Awaited<ReturnType<typeof box>>;
beforeAll(async () => {
  at = await box();
}, 300_000);
afterAll(async () => {
  expect(await at.end()).toEqual([]);
});

/** Booted and admitted, for a launch of its own. */
async function admitted(): Promise<StagedRun> {
  const run = await at.boot();
  await at.admit(run);
  return run;
}

async function over(run: StagedRun) {
  const fate = await at.fate(run);
  const said = { ...run.output() };
  await at.forget(run);
  return { ...said, exit: fate.exit_code };
}

test("a command gets its arguments, environment and directory to the byte, and nothing else", async () => {
  const run = await admitted();
  const argv = [
    "bash",
    "-c",
    `printf '%s\\n' "$@"; pwd; env -0 | tr '\\0' '|'`,
    "name",
    "a b",
    "",
    "ü\n'\"$x",
  ];
  run.launch({ argv, env: { PATH: "/usr/bin", X: "1=2", LONG: "y".repeat(20_000) }, cwd: "/tmp" });
  const { out, exit } = await over(run);
  const [printed, env] = out.split("/tmp\n");
  expect(exit).toBe(0);
  expect(printed).toBe("a b\n\nü\n'\"$x\n");
  // bash itself adds these three.
  expect(env?.split("|").filter((line) => !/^(PWD|SHLVL|_)=/.test(line))).toEqual(
    expect.arrayContaining(["PATH=/usr/bin", "X=1=2", `LONG=${"y".repeat(20_000)}`, ""]),
  );
  expect(env?.split("|")).toHaveLength(7);
});

test("stdin is /dev/null, or what is fed until it ends", async () => {
  const without = await admitted();
  without.sh("cat; readlink /proc/self/fd/0");
  expect(await over(without)).toMatchObject({ out: "/dev/null\n", exit: 0 });

  const fed = await admitted();
  fed.sh("sha256sum; echo more; cat", { stdin: true });
  const bytes = new Uint8Array(300_000).map((_, at) => at * 7);
  for (let from = 0; from < bytes.length; from += MAX_DATA_BYTES) {
    await whenTaken(fed, FrameType.data, part(from, bytes.subarray(from, from + MAX_DATA_BYTES)));
    // As an api does that was killed in between: some of it again, from a little before.
    const again = Math.max(0, from - 1000);
    await whenTaken(fed, FrameType.data, part(again, bytes.subarray(again, again + 1500)));
  }
  fed.frame(FrameType.eof);
  const digest = new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
  expect(await over(fed)).toMatchObject({ out: `${digest}  -\nmore\n`, exit: 0 });
});

test("what is fed without a place goes behind what came", async () => {
  const fed = await admitted();
  fed.sh("cat", { stdin: true });
  for (const [at, text] of [
    [0, "one "],
    [null, "two "],
    [0, "one two "],
    [null, "three"],
  ] as const)
    fed.frame(FrameType.data, part(at, Buffer.from(text)));
  fed.frame(FrameType.eof);
  expect(await over(fed)).toMatchObject({ out: "one two three", exit: 0 });
});

/** A data frame's payload. */
function part(at: number | null, bytes: Uint8Array): Uint8Array {
  return encodeData(at, bytes).subarray(3);
}

/** The FIFO holds 64 KiB, and then takes no more until the init has read. */
async function whenTaken(run: StagedRun, type: number, payload: Uint8Array): Promise<void> {
  for (;;) {
    try {
      run.frame(type, payload);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      await Bun.sleep(2);
    }
  }
}

test("a command that reads nothing, or has closed its stdin, can still be ended", async () => {
  const deaf = await admitted();
  deaf.sh("exec 0<&-; echo up; sleep 60", { stdin: true });
  await deaf.saw("up");
  // Into a pipe that has no reader, and past what any pipe holds.
  for (let sent = 0; sent < 200_000; sent += MAX_DATA_BYTES)
    await whenTaken(deaf, FrameType.data, part(null, new Uint8Array(MAX_DATA_BYTES)));
  await whenTaken(deaf, FrameType.signal, Buffer.of(15));
  expect(await over(deaf)).toMatchObject({ exit: 143 });

  const idle = await admitted();
  idle.sh("echo up; sleep 60", { stdin: true });
  await idle.saw("up");
  idle.frame(FrameType.data, part(null, Buffer.from("nobody reads this")));
  idle.frame(FrameType.signal, Buffer.of(2));
  expect(await over(idle)).toMatchObject({ exit: 130 });
});

test("a signal goes to the command's whole group, and what it leaves dies with it", async () => {
  const run = await admitted();
  run.sh(
    `trap 'echo caught; exit 9' TERM; setsid sh -c 'trap "" TERM; sleep 60 & sleep 60' & sleep 60 & echo up; wait`,
  );
  await run.saw("up");
  run.frame(FrameType.signal, Buffer.of(15));
  expect(await over(run)).toMatchObject({ out: "up\ncaught\n", exit: 9 });
});

test("a start that was begun by an api before is begun anew, and one that is made is not made twice", async () => {
  const run = await admitted();
  run.frame(FrameType.launch, Buffer.from("1\0/half of a launch"));
  run.sh("echo once; sleep 0.5; echo over");
  await run.saw("once");
  run.sh("echo twice");
  expect(await over(run)).toMatchObject({ out: "once\nover\n", exit: 0 });
});

test("a command that can't be started says why, as a shell does", async () => {
  const cases = [
    [{ argv: ["no-such-program"] }, 127, "cofferdam: no-such-program: No such file or directory\n"],
    [{ argv: ["/etc/passwd"] }, 126, "cofferdam: /etc/passwd: Permission denied\n"],
    [{ argv: ["true"], cwd: "/nowhere" }, 126, "cofferdam: /nowhere: No such file or directory\n"],
  ] as const;
  for (const [launch, exit, err] of cases) {
    const run = await admitted();
    run.launch(launch);
    expect(await over(run)).toEqual({ out: "", err, exit });
  }
});

test("limits can be lowered by the launch, not raised", async () => {
  const run = await admitted();
  run.sh("ulimit -Hu; ulimit -Hf; head -c 2000000 /dev/zero >f", {
    processes: 99_999,
    fileBytes: 1024 * 1024,
  });
  // Of kibibytes; SIGXFSZ ends the writer.
  expect(await over(run)).toMatchObject({ out: "512\n1024\n", exit: 153 });
  const low = await admitted();
  low.sh("ulimit -Hu", { processes: 20 });
  expect(await over(low)).toMatchObject({ out: "20\n", exit: 0 });
});

test("orphans are reaped", async () => {
  const run = await admitted();
  run.sh("for i in $(seq 40); do (true & ) ; done; sleep 0.5; ps -e -o stat= | grep -c Z");
  expect(await over(run)).toMatchObject({ out: "0\n" });
});

/** Each would end or stop the first process of its sandbox, which has the same uid. */
const AT_THE_INIT = `
import ctypes, errno, signal
libc = ctypes.CDLL(None, use_errno=True)
info = ctypes.create_string_buffer(128)
info[8] = 0xff
calls = {"kill": (62, 1, 19), "rt_sigqueueinfo": (129, 1, 19, info), "tkill": (200, 1, 19), "tgkill": (234, 1, 1, 19),
         "rt_tgsigqueueinfo": (297, 1, 1, 19, info), "prlimit64": (302, 1, 0, (ctypes.c_ulong * 2)(1, 1), None),
         "pidfd_open": (434, 1, 0)}
for name, call in calls.items():
    print(name, errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) else "ok")
import fcntl, os, socket
one, other = socket.socketpair()
fcntl.fcntl(one, fcntl.F_SETOWN, 1)
try:
    fcntl.fcntl(one, 10, 9)
except OSError as error:
    print("F_SETSIG", errno.errorcode[error.errno])
fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
other.send(b"x")
`;

test("a command can neither end nor stop the init, whose uid it has", async () => {
  const run = await admitted();
  run.sh(`python3 -c '${AT_THE_INIT}'; kill -9 1; sleep 60 & kill $!; wait $!; exit 3`);
  const { out, exit } = await over(run);
  expect(out.trim().split("\n")).toEqual(
    [
      "kill",
      "rt_sigqueueinfo",
      "tkill",
      "tgkill",
      "rt_tgsigqueueinfo",
      "prlimit64",
      "pidfd_open",
      "F_SETSIG",
    ].map((name) => `${name} EPERM`),
  );
  expect(exit).toBe(3);
});

import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { closeSync, constants, existsSync, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { runId } from "../../../../src/ids.ts";
import { runNames } from "../../../../src/sandboxd/run/names.ts";
import { readRecord } from "../../../../src/sandboxd/run/record.ts";
import { RUN_STEPS, type RunStep } from "../../../../src/sandboxd/run/boot.ts";
import { makeDisk } from "../../../fixtures/encrypted-disk.ts";
import { refusal } from "../stage.ts";
import { box, processesOf } from "./stage.ts";

type Box = Awaited<ReturnType<typeof box>>;
let at: Box;
/** The step that fails next. */
const breaks: { at: RunStep | null } = { at: null };
beforeAll(async () => {
  at = await box({
    onRunStep(step) {
      if (step === breaks.at) throw new Error("broken on purpose");
    },
  });
}, 300_000);
afterAll(async () => {
  expect(await at.end()).toEqual([]);
});

/** One that failed leaves its own runs, which are not the next one's fault. */
afterEach(async () => {
  for (const { run } of (await at.client.call("listRuns", {})).runs) {
    await at.client.call("stopRun", { run });
    await at.client.call("forgetRun", { run });
  }
});

test("a run prints, writes into its worktree, and ends with its exit code", async () => {
  const run = await at.begin("id -u; pwd; echo hi >f; echo oops >&2; exit 7");
  const fate = await at.fate(run);
  expect(fate).toMatchObject({ exit_code: 7, cause: "exit", fault: null });
  expect(fate.peak_memory_bytes).toBeGreaterThan(1024 * 1024);
  expect(fate.cpu_ms).toBeGreaterThan(0);
  expect(run.output()).toEqual({ out: "10000\n/work\n", err: "oops\n" });
  expect(readFileSync(join(run.work, "f"), "utf8")).toBe("hi\n");
  await at.forget(run);
});

test("nothing of a run is left but its fate, and after that nothing", async () => {
  const run = await at.boot();
  expect(at.left().some((line) => line.startsWith("mount "))).toBe(true);
  await at.client.call("stopRun", { run: run.id });
  expect(at.left().filter((line) => !line.startsWith("file ") && !line.includes("kill -STOP"))).toEqual([]);
  expect(await at.client.call("inspectRun", { run: run.id })).toMatchObject({
    state: "ended",
    fate: { cause: "stopped", exit_code: null },
  });
  await at.forget(run);
  expect(at.left()).toEqual([]);
  expect(await at.client.call("inspectRun", { run: run.id })).toEqual({ state: "unknown" });
});

test("each operation is safe to repeat", async () => {
  const unknown = runId.make();
  await at.client.call("stopRun", { run: unknown });
  await at.client.call("forgetRun", { run: unknown });
  expect(await refusal(at.admit({ id: unknown }))).toContain("does not do");

  const run = at.make();
  const [first, second] = await Promise.all([
    at.client.call("startRun", { run: run.id }),
    at.client.call("startRun", { run: run.id }),
  ]);
  expect(second).toEqual(first);
  expect(await refusal(at.client.call("forgetRun", { run: run.id }))).toContain("does not do");
  expect(await at.client.call("listRuns", {})).toEqual({ runs: [{ run: run.id, state: "running" }] });
  await Promise.all([at.client.call("stopRun", { run: run.id }), at.client.call("stopRun", { run: run.id })]);
  expect(await refusal(at.client.call("startRun", { run: run.id }))).toContain("does not do");
  expect(await at.client.call("listRuns", {})).toEqual({ runs: [{ run: run.id, state: "ended" }] });
  await at.forget(run);
});

test("who waits for ends is told of one at once, and of one that was before", async () => {
  expect(await at.client.call("awaitEnds", { timeout_ms: 1 })).toEqual({ ended: [] });
  const run = await at.boot();
  const waits = at.client.call("awaitEnds", { timeout_ms: 60_000 });
  await at.admit(run);
  run.sh("exit 3");
  expect(await waits).toEqual({ ended: [run.id] });
  expect(await at.client.call("awaitEnds", { timeout_ms: 60_000 })).toEqual({ ended: [run.id] });
  await at.forget(run);
});

test("one that dies while it is admitted is over, and stays so", async () => {
  const sh = (script: string) => Bun.spawnSync(["bash", "-ec", script]);
  // There, a lane takes as long as somebody else changes rules.
  sh(
    "update-alternatives --set iptables /usr/sbin/iptables-legacy; ip link add far0 type veth peer name far1",
  );
  sh("ip addr add 8.8.4.1/24 dev far0; ip link set far1 up; ip link set far0 up");
  const own = await box({ runs: { subnet: "10.43.0.0/16" } });
  const run = await own.boot();
  const other = Bun.spawn(["flock", "/run/xtables.lock", "sleep", "3"]);
  await Bun.sleep(200);
  const admitted = refusal(own.admit(run, { direct: [{ address: "8.8.4.4", port: 443 }] }));
  await Bun.sleep(200);
  for (const { pid, argv } of processesOf(run.id))
    if (argv.startsWith("runsc-sandbox")) process.kill(pid, "SIGKILL");
  await admitted;
  expect(await own.client.call("inspectRun", { run: run.id })).toMatchObject({
    state: "ended",
    fate: { cause: "lost" },
  });
  await other.exited;
  await own.forget(run);
  expect(await own.end()).toEqual([]);
  sh("ip link del far0; update-alternatives --set iptables /usr/sbin/iptables-nft");
}, 120_000);

test("a stop for good also ends a run that is being booted", async () => {
  const there = await box();
  const run = there.make();
  const start = there.client.call("startRun", { run: run.id }).catch(() => null);
  await Bun.sleep(60);
  const left = await there.end();
  await start;
  expect(left.filter((line) => !line.startsWith("file ") && !line.includes("kill -STOP"))).toEqual([]);
  run.close();
});

test("a boot that fails at any step leaves nothing", async () => {
  for (const step of RUN_STEPS) {
    const run = at.make();
    breaks.at = step;
    at.logged.length = 0;
    await refusal(at.client.call("startRun", { run: run.id }));
    breaks.at = null;
    expect(at.logged.join("")).toContain(`${step}: broken on purpose`);
    expect([step, at.left()]).toEqual([step, []]);
    // The control: the same run boots when nothing fails.
    if (step === "limits") {
      await at.client.call("startRun", { run: run.id });
      await at.client.call("stopRun", { run: run.id });
      await at.forget(run);
    } else run.close();
  }
}, 60_000);

test("what a run said last waits for api, also when nobody has its FIFOs open meanwhile", async () => {
  const run = await at.boot();
  await at.admit(run);
  run.sh("echo last words");
  run.close();
  await at.fate(run);
  const fd = openSync(run.paths.out, constants.O_RDWR | constants.O_NONBLOCK);
  const buffer = Buffer.alloc(100);
  // A run that was lost would have said nothing.
  expect(await at.client.call("inspectRun", { run: run.id })).toMatchObject({
    fate: { cause: "exit", exit_code: 0 },
  });
  expect(buffer.toString("utf8", 0, readSync(fd, buffer))).toBe("last words\n");
  closeSync(fd);
  await at.client.call("forgetRun", { run: run.id });
});

test("a worktree on a disk that encrypts is a run's as any other, and not to be read from the raw disk", async () => {
  const disk = makeDisk();
  const there = await box({ on: disk.path });
  const run = await there.begin(
    "printf 'run''-wrote-this' >f; mkdir d; mv f d; chmod 4755 d/f; stat -c '%u %a' d/f",
  );
  expect(await there.fate(run)).toMatchObject({ cause: "exit", exit_code: 0 });
  expect(run.output()).toEqual({ out: "10000 4755\n", err: "" });
  expect(disk.found(["run-wrote-this"])).toEqual([]);
  expect(readFileSync(join(run.work, "d/f"), "utf8")).toBe("run-wrote-this");
  await there.forget(run);
  expect(await there.end()).toEqual([]);
  disk.remove();
});

describe("a fate", () => {
  test("of one that ran out of time", async () => {
    const run = await at.begin("echo up; sleep 60", { timeout_s: 1 });
    expect(await at.fate(run)).toMatchObject({ cause: "timeout", exit_code: null });
    await at.forget(run);
  });

  test("of one that ran out of memory", async () => {
    const bomb = "python3 -c 'b = [bytearray(1 << 20) for _ in range(400)]'; sleep 60";
    const run = await at.begin(bomb, { memory_mb: 128 });
    const fate = await at.fate(run);
    expect(fate).toMatchObject({ cause: "oom", exit_code: null });
    expect(fate.peak_memory_bytes).toBeLessThanOrEqual(128 * 1024 * 1024);
    await at.forget(run);
    // The control: with room for it, the same bomb is none.
    expect(await at.ran(bomb.replace("sleep 60", "echo fine"), { memory_mb: 512 })).toMatchObject({
      cause: "exit",
      out: "fine\n",
    });
  }, 120_000);

  test("of one whose exit code could be a signal's or runsc's own", async () => {
    expect(await at.ran("exit 128")).toMatchObject({ cause: "exit", exit_code: 128 });
    expect(await at.ran("kill -9 $$")).toMatchObject({ cause: "exit", exit_code: 137 });
  });

  test.each([
    ["its sandbox", /^runsc-sandbox /, "its sandbox or runsc was killed"],
    ["its gofer", /^runsc-gofer /, ""],
    ["runsc", /^[^ ]+\/runsc --root/, "its sandbox or runsc was killed"],
    ["its shim", /^\/bin\/sh -c/, "the process that waited"],
  ])("of one that lost %s", async (_what, which, fault) => {
    const run = await at.begin("echo up; while sleep 0.1; do echo x >f || exit 1; done");
    await run.saw("up");
    const victim = processesOf(run.id).find(({ argv }) => which.test(argv));
    process.kill(victim?.pid ?? 0, "SIGKILL");
    const fate = await at.fate(run);
    if (fault !== "") expect(fate).toMatchObject({ cause: "lost", exit_code: null });
    expect(fate.fault ?? "").toContain(fault);
    await at.forget(run);
    expect(at.left()).toEqual([]);
  });
});

describe("limits", () => {
  const read = (run: { id: string }, controller: string, file: string) => {
    const path = join("/sys/fs/cgroup", controller, `cofferdam-${at.instance.inst}`, run.id, file);
    const unified = join("/sys/fs/cgroup", `cofferdam-${at.instance.inst}`, run.id, file);
    return readFileSync(existsSync(path) ? path : unified, "utf8").trim();
  };
  const v1 = existsSync("/sys/fs/cgroup/memory");

  test("are the host's own until a run is admitted, then what it asked for, and never more", async () => {
    const run = await at.boot();
    const memory = () => (v1 ? read(run, "memory", "memory.limit_in_bytes") : read(run, "", "memory.max"));
    const swap = () =>
      v1 ? read(run, "memory", "memory.memsw.limit_in_bytes") : read(run, "", "memory.swap.max");
    const cpu = () => (v1 ? read(run, "cpu", "cpu.cfs_quota_us") : read(run, "", "cpu.max").split(" ")[0]);
    const pids = () => read(run, "pids", "pids.max");
    const MIB = 1024 * 1024;
    expect([memory(), swap()]).toEqual([`${512 * MIB}`, v1 ? `${512 * MIB}` : "0"]);
    await at.admit(run, { memory_mb: 128, cpus: 0.5, pids: 64 });
    expect([memory(), swap(), cpu(), pids()]).toEqual([
      `${128 * MIB}`,
      v1 ? `${128 * MIB}` : "0",
      "50000",
      `${64 * 4 + 128}`,
    ]);
    const names = runNames(at.instance, run.id);
    const deadline = readRecord(names)?.deadline;
    await at.admit(run, { memory_mb: 9999, cpus: 99, pids: 9999, timeout_s: 9999 });
    expect([memory(), cpu(), pids()]).toEqual([`${512 * MIB}`, "200000", `${512 * 4 + 128}`]);
    // An api that comes back and admits once more wins no time.
    expect(readRecord(names)?.deadline).toBe(deadline ?? null);
    await at.client.call("stopRun", { run: run.id });
    await at.forget(run);
  });
});

import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCgroups } from "../../../src/sandboxd/cgroup.ts";

const top = mkdtempSync(join(tmpdir(), "cgroup-"));
afterAll(() => rmSync(top, { recursive: true }));

const LIMITS = { memoryBytes: 1 << 28, pids: 100, cpus: 1.5 };
const GROUP = "cofferdam-abcd/sb-x";

/** A directory with the files that the kernel would put there. */
function group(path: string, files: Record<string, string>): string {
  const directory = join(top, path);
  mkdirSync(directory, { recursive: true });
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
  return directory;
}

test("version 2: controllers are handed down, limits written and read back", () => {
  const v2 = `30 1 0:1 / ${top} rw - cgroup2 cgroup2 rw,nsdelegate\n`;
  group("", { "cgroup.subtree_control": "memory" });
  group("cofferdam-abcd", { "cgroup.subtree_control": "" });
  const directory = group(GROUP, {
    "memory.max": "",
    "memory.swap.max": "",
    "pids.max": "",
    "cpu.max": "",
    "cpu.weight": "",
    "memory.events": "low 0\noom 1\noom_kill 2\noom_group_kill 1\n",
    "memory.current": "4096\n",
    "cgroup.procs": "7\n9\n",
  });
  const cgroups = openCgroups(v2, top);
  expect(cgroups.version).toBe(2);
  cgroups.create(GROUP, LIMITS);
  const file = (name: string) => readFileSync(join(directory, name), "utf8");
  expect([file("memory.max"), file("memory.swap.max"), file("pids.max"), file("cpu.max")]).toEqual([
    "268435456",
    "0",
    "100",
    "150000 100000",
  ]);
  expect(readFileSync(join(top, "cgroup.subtree_control"), "utf8")).toBe("+pids +cpu");
  cgroups.setPriority(GROUP, "spare");
  expect(file("cpu.weight")).toBe("6");
  expect([cgroups.oomKilled(GROUP), cgroups.memoryBytes(GROUP), cgroups.processes(GROUP)]).toEqual([
    true,
    4096,
    [7, 9],
  ]);
  expect(() => cgroups.verifyMember(GROUP, 8)).toThrow("process 8 is not in");
  cgroups.verifyMember(GROUP, 9);
  expect(cgroups.oomKilled("cofferdam-abcd/absent")).toBe(false);
});

test("version 2: limits are changed in place, and what was used is told where the kernel tells it", () => {
  const v2 = `30 1 0:1 / ${top} rw - cgroup2 cgroup2 rw,nsdelegate\n`;
  const directory = group(GROUP, { "io.weight": "", "cpu.stat": "usage_usec 1234567\nuser_usec 9\n" });
  const cgroups = openCgroups(v2, top);
  cgroups.limit(GROUP, { memoryBytes: 1 << 27, pids: 200, cpus: 1, ioWeight: 50 });
  const file = (name: string) => readFileSync(join(directory, name), "utf8");
  expect([file("memory.max"), file("pids.max"), file("cpu.max"), file("io.weight")]).toEqual([
    "134217728",
    "200",
    "100000 100000",
    "default 50",
  ]);
  // Before Linux 5.19 there is no memory.peak.
  expect([cgroups.cpuMs(GROUP), cgroups.peakMemoryBytes(GROUP)]).toEqual([1235, null]);
  group(GROUP, { "memory.peak": "8192\n" });
  expect(cgroups.peakMemoryBytes(GROUP)).toBe(8192);
  rmSync(join(directory, "io.weight"));
  cgroups.limit(GROUP, LIMITS);
});

test("what is in force is told with where it stands, and how much memory is left", () => {
  const v2 = `30 1 0:1 / ${top} rw - cgroup2 cgroup2 rw,nsdelegate\n`;
  const directory = group("cofferdam-abcd/run-x", {
    "memory.max": `${1 << 28}\n`,
    "memory.swap.max": "0\n",
    "pids.max": "max\n",
    "cpu.max": "150000 100000\n",
    "pids.current": "12\n",
    "memory.current": `${200 << 20}\n`,
    "memory.stat": `file 9\ninactive_file ${20 << 20}\n`,
  });
  const cgroups = openCgroups(v2, top);
  const limits = cgroups.limits("cofferdam-abcd/run-x", LIMITS);
  expect(limits).toContainEqual({
    file: join(directory, "memory.max"),
    wanted: "268435456",
    value: "268435456",
    optional: false,
  });
  expect(limits.find(({ file }) => file.endsWith("/io.weight"))).toMatchObject({
    value: null,
    optional: true,
  });
  expect(cgroups.missing("cofferdam-abcd/run-x", LIMITS)).toEqual(["pids.max is max, not 100"]);
  expect(cgroups.tasks("cofferdam-abcd/run-x")).toBe(12);
  expect(cgroups.memoryLeft("cofferdam-abcd/run-x")).toBe(76 << 20);
  writeFileSync(join(directory, "memory.max"), "max\n");
  expect(cgroups.memoryLeft("cofferdam-abcd/run-x")).toBe(null);
});

test("version 2 without a controller: no limit, no sandbox", () => {
  const v2 = `30 1 0:1 / ${top} rw - cgroup2 cgroup2 rw\n`;
  rmSync(join(top, GROUP, "memory.max"));
  expect(() => openCgroups(v2, top).create(GROUP, LIMITS)).toThrow("memory.max can't be set");
});

test("version 1: a controller that is not mounted stops everything, one that is read-only too", () => {
  const line = (name: string, n: number) => `${n} 1 0:${n} / ${top}/${name} rw - cgroup cgroup rw,${name}\n`;
  const partial = openCgroups(line("memory", 31) + line("cpu", 32), top);
  expect(partial.version).toBe(1);
  expect(() => partial.create(GROUP, LIMITS)).toThrow("this host has no pids cgroup");
  for (const name of ["memory", "cpu", "pids"]) group(join(name, GROUP), {});
  const whole = openCgroups(line("memory", 31) + line("cpu", 32) + line("pids", 33), top);
  expect(() => whole.create(GROUP, LIMITS)).toThrow("memory.limit_in_bytes can't be set");
});

import { expect, test } from "bun:test";
import { copyFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import {
  argvOf,
  childrenOf,
  idOf,
  NAMESPACES,
  pids,
  procText,
  readProcess,
  statOf,
  unlessGone,
} from "../../../src/kernel/process.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { until } from "../../fixtures/until.ts";

test("a process is what it was started with, whatever its name and arguments look like", async () => {
  using scratch = scratchDirectory();
  const program = join(scratch.path, "a) Z 1 (b");
  copyFileSync("/usr/bin/sleep", program);
  await using child = Bun.spawn([program, "600"], { argv0: "x y" });
  await until(() => argvOf(child.pid)[0] === "x y");
  const found = readProcess(child.pid);
  expect(found.argv).toEqual(["x y", "600"]);
  expect(found.status.get("Name")).toBe("a) Z 1 (b");
  expect(Number(found.status.get("PPid"))).toBe(process.pid);
  expect([idOf(found, "Uid"), idOf(found, "Gid")]).toEqual([
    `${process.getuid?.()}`,
    `${process.getgid?.()}`,
  ]);
  expect(statOf(child.pid)).toMatchObject({ state: expect.stringMatching(/^[RSD]$/) });
  expect(statOf(child.pid).session).toBe(statOf(process.pid).session);
  expect(statOf(child.pid).startTime).toBeGreaterThanOrEqual(statOf(process.pid).startTime);
  expect(childrenOf(process.pid)).toContain(child.pid);
  expect(pids()).toEqual(expect.arrayContaining([process.pid, child.pid]));
});

test("its namespaces are told apart by their inodes", async () => {
  await using child = Bun.spawn(["unshare", "--net", "--uts", "sleep", "600"]);
  await until(() => argvOf(child.pid)[0] === "sleep");
  const [own, its] = [readProcess(process.pid).namespaces, readProcess(child.pid).namespaces];
  expect(NAMESPACES.filter((kind) => own[kind] !== its[kind])).toEqual(["net", "uts"]);
  expect(its.net).toBe(`${statSync(`/proc/${child.pid}/ns/net`).ino}`);
  expect(readlinkSync("/proc/self/ns/mnt")).toBe(`mnt:[${own.mnt}]`);
});

test("one that has ended has no arguments, and one that is gone is not found", async () => {
  // The shell that started it becomes a program that asks for nobody's end.
  await using parent = Bun.spawn(["bash", "-c", "sleep 600 & exec sleep 600"]);
  const [ended = 0] = await until(() => {
    const found = childrenOf(parent.pid);
    return argvOf(parent.pid)[0] === "sleep" && found.length === 1 && found;
  });
  process.kill(ended, "SIGKILL");
  await until(() => statOf(ended).state === "Z");
  expect(argvOf(ended)).toEqual([]);
  parent.kill();
  await parent.exited;
  for (const read of [readProcess, statOf, childrenOf]) {
    const look = (): unknown => read(parent.pid);
    expect(look).toThrow();
    expect(unlessGone(look)).toBeUndefined();
  }
  // Another error is no absence.
  expect(() => unlessGone(() => procText(process.pid, "fd"))).toThrow("EISDIR");
});

test("ids that differ are all told", () => {
  const status = new Map([["Uid", "0\t65534\t0\t0"]]);
  expect(idOf({ status }, "Uid")).toBe("0,65534,0,0");
});

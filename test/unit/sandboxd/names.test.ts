import { expect, test } from "bun:test";
import { configSchema } from "../../../src/config/schema.ts";
import { sandboxId } from "../../../src/ids.ts";
import { instanceLayout } from "../../../src/instance/instance.ts";
import { sandboxIdInName, sandboxNames } from "../../../src/sandboxd/names.ts";
import { mountPointsBelow } from "../../../src/sandboxd/slot.ts";
import { largestFileMb, processLimit, sandboxSpec } from "../../../src/sandboxd/spec.ts";

const instance = instanceLayout("/data", "abcd");

test("every name of a sandbox leads back to it, and no other name does", () => {
  const names = sandboxNames(instance, sandboxId.make());
  const last = (path: string) => path.slice(path.lastIndexOf("/") + 1);
  const all = [names.slot, names.bundle, names.cgroup, ...Object.values(names.runsc)];
  expect(all.map((path) => sandboxIdInName(last(path)))).toEqual(all.map(() => names.id));
  for (const other of ["workspace", "null-netns", "sb-", "sb-SHORT", "lock", "sb-aaaaaaaaaaaa", "doctor-1"]) {
    expect(sandboxIdInName(other)).toBeUndefined();
  }
  // runsc makes this socket, and sun_path holds 108 bytes.
  expect(names.runsc.socket.length).toBeLessThan(100);
});

test("nothing of the host is in a sandbox but the image and the slot", () => {
  const names = sandboxNames(instance, sandboxId.make());
  const spec = sandboxSpec(names, "/lib/rootfs.erofs", configSchema.parse({}));
  expect(spec.mounts.map(({ source }) => source)).toEqual(["proc", names.slot]);
  expect(spec.root.readonly).toBe(true);
  expect(spec.process.noNewPrivileges).toBe(true);
  expect(spec.process.env).toEqual([]);
  const bounding: readonly string[] = spec.process.capabilities.bounding;
  for (const cap of ["CAP_DAC_OVERRIDE", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_MKNOD", "CAP_CHOWN"]) {
    expect(bounding).not.toContain(cap);
  }
});

test("no file is larger than all that its namespace may have, and /tmp keeps its size", () => {
  const largest = (config: Record<string, unknown>) => largestFileMb(configSchema.parse(config));
  expect(largest({})).toBe(4096);
  expect(largest({ exec: { file_mb: 100 }, quota: { namespace_mb: 1000 } })).toBe(100);
  expect(largest({ quota: { namespace_mb: 1000, workspace_mb: 3000 } })).toBe(1000);
  expect(largest({ quota: { workspace_mb: 500 } })).toBe(500);
  expect(largest({ quota: { namespace_mb: 1 } })).toBe(256);
});

test("a command's process limit bites before the sandbox's, also with the smallest configuration", () => {
  for (const pids of [64, 256, 1024, 4096]) expect(processLimit(pids) * 1.7).toBeLessThan(pids - 20);
});

test("mount points are found as the kernel writes them", () => {
  const mountinfo = [
    "36 35 0:31 / /run/slots/sb-a rw,nosuid shared:1 - tmpfs cofferdam rw",
    "37 36 0:32 /x /run/slots/sb-a/workspace rw - ext4 /dev/vda rw",
    "38 36 0:33 / /run/slots/a\\040b rw - tmpfs none rw",
    "39 36 0:34 / /run/slotsother rw - tmpfs none rw",
    "",
  ].join("\n");
  expect(mountPointsBelow("/run/slots", mountinfo)).toEqual([
    "/run/slots/sb-a",
    "/run/slots/sb-a/workspace",
    "/run/slots/a b",
  ]);
});

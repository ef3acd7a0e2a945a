import { expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import {
  bindMount,
  makePrivate,
  makeShared,
  MountAttr,
  mountSetattr,
  moveMount,
  newFilesystem,
  openTree,
  umount,
} from "../../../src/kernel/mounts.ts";
import { closeFd, constants as c, openBeneath } from "../../../src/kernel/openat2.ts";

mkdirSync("/scratch/m");
bindMount("/scratch/m", "/scratch/m");
makePrivate("/scratch/m");

test("a tree opened by descriptor stays itself when its path becomes a link", () => {
  mkdirSync("/scratch/m/tenant");
  mkdirSync("/scratch/m/target");
  writeFileSync("/scratch/m/tenant/mine", "");
  const parent = openSync("/scratch/m", c.O_PATH | c.O_DIRECTORY);
  const fd = openBeneath(parent, "tenant", c.O_PATH | c.O_DIRECTORY, 0, { noSymlinks: true });
  renameSync("/scratch/m/tenant", "/scratch/m/moved");
  symlinkSync("/etc", "/scratch/m/tenant");
  const tree = openTree({ fd });
  mountSetattr(tree, MountAttr.noSuid | MountAttr.noDev);
  moveMount(tree, { path: "/scratch/m/target" });
  expect(readdirSync("/scratch/m/target")).toEqual(["mine"]);
  for (const open of [tree, fd]) closeFd(open);
  closeSync(parent);
  umount("/scratch/m/target");
  expect(readdirSync("/scratch/m/target")).toEqual([]);
});

test("a shared directory carries later mounts to its copies", () => {
  mkdirSync("/scratch/m/slot");
  mkdirSync("/scratch/m/copy");
  bindMount("/scratch/m/slot", "/scratch/m/slot");
  makeShared("/scratch/m/slot");
  mkdirSync("/scratch/m/slot/workspace");
  bindMount("/scratch/m/slot", "/scratch/m/copy");
  const files = newFilesystem("tmpfs", { size: "64k", mode: "0700" }, 0);
  moveMount(files, { path: "/scratch/m/slot/workspace" });
  closeFd(files);
  writeFileSync("/scratch/m/slot/workspace/seen", "");
  expect(existsSync("/scratch/m/copy/workspace/seen")).toBe(true);
  umount("/scratch/m/slot/workspace");
  expect(existsSync("/scratch/m/copy/workspace/seen")).toBe(false);
});

test("read-only holds for root too", () => {
  mkdirSync("/scratch/m/ro/below", { recursive: true });
  const tree = openTree({ path: "/scratch/m/ro" }, { recursive: true });
  mountSetattr(tree, MountAttr.readOnly, { recursive: true });
  moveMount(tree, { path: "/scratch/m/ro" });
  closeFd(tree);
  expect(() => writeFileSync("/scratch/m/ro/below/x", "")).toThrow("EROFS");
  umount("/scratch/m/ro", { detach: true });
  writeFileSync("/scratch/m/ro/below/x", "");
});

test("nothing mounted is EINVAL", () => {
  expect(() => umount("/scratch/m/slot/workspace")).toThrow("EINVAL");
});

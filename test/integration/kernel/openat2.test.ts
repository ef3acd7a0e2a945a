import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "bun";
import {
  closeSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KernelError } from "../../../src/kernel/libc.ts";
import {
  closeFd,
  constants as c,
  mkdirAt,
  openBeneath,
  renameAt,
  unlinkAt,
} from "../../../src/kernel/openat2.ts";

const top = mkdtempSync(join(tmpdir(), "openat2-"));
const inside = join(top, "inside");
let dir = -1;

beforeAll(() => {
  mkdirSync(join(inside, "sub"), { recursive: true });
  writeFileSync(join(top, "secret"), "secret");
  writeFileSync(join(inside, "file"), "file");
  writeFileSync(join(inside, "sub", "deep"), "deep");
  symlinkSync("sub/deep", join(inside, "good"));
  symlinkSync(join(inside, "file"), join(inside, "absolute"));
  symlinkSync("../secret", join(inside, "escape"));
  symlinkSync("sub/../../secret", join(inside, "sneaky"));
  symlinkSync("/proc/self/root/etc", join(inside, "magic"));
  dir = openSync(inside, c.O_PATH | c.O_DIRECTORY);
});

afterAll(() => {
  closeSync(dir);
  rmSync(top, { recursive: true });
});

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof KernelError) return error.code;
    throw error;
  }
  return "no error";
}

function read(path: string | Uint8Array, options = {}): string {
  const fd = openBeneath(dir, path, c.O_RDONLY, 0, options);
  try {
    return readFileSync(fd, "utf8");
  } finally {
    closeFd(fd);
  }
}

describe("openBeneath", () => {
  test("opens files, directories and links that stay inside", () => {
    expect(read("file")).toBe("file");
    expect(read("sub/../file")).toBe("file");
    expect(read("good")).toBe("deep");
    expect(read(new TextEncoder().encode("sub/deep"))).toBe("deep");
    const self = openBeneath(dir, ".", c.O_PATH | c.O_DIRECTORY);
    expect(fstatSync(self).ino).toBe(lstatSync(inside).ino);
    closeFd(self);
  });

  test.each([
    "../secret",
    "/etc/passwd",
    "escape",
    "sneaky",
    "absolute",
    "magic/passwd",
    "sub/../../secret",
    "..",
  ])("refuses what leads out: %s", (path) => {
    expect(codeOf(() => read(path))).toBe("EXDEV");
  });

  test("the same paths do lead out where nothing guards them", () => {
    expect(readFileSync(join(inside, "escape"), "utf8")).toBe("secret");
    expect(readFileSync(join(inside, "sneaky"), "utf8")).toBe("secret");
  });

  test("noSymlinks refuses even a link that stays inside", () => {
    expect(codeOf(() => read("good", { noSymlinks: true }))).toBe("ELOOP");
    expect(read("sub/deep", { noSymlinks: true })).toBe("deep");
  });

  test("names errors as the kernel does", () => {
    expect(codeOf(() => read("absent"))).toBe("ENOENT");
    expect(codeOf(() => read("file/below"))).toBe("ENOTDIR");
    expect(codeOf(() => read("n".repeat(256)))).toBe("ENAMETOOLONG");
    expect(codeOf(() => read("d/".repeat(2100)))).toBe("ENAMETOOLONG");
    expect(codeOf(() => read(""))).toBe("EINVAL");
    expect(codeOf(() => read("file\0.png"))).toBe("EINVAL");
    expect(codeOf(() => read(new Uint8Array([0x66, 0])))).toBe("EINVAL");
  });

  test("a long path does not leave its tail for the next, shorter one", () => {
    expect(codeOf(() => read(`sub/${"x".repeat(200)}`))).toBe("ENOENT");
    expect(read("file")).toBe("file");
  });

  test("what it opens does not pass to a child", () => {
    const fd = openBeneath(dir, "file", c.O_RDONLY);
    const listed = (flags: string[]) => spawnSync(["readlink", ...flags]).stdout.toString();
    expect(listed([`/proc/${process.pid}/fd/${fd}`])).toContain("file");
    expect(listed([`/proc/self/fd/${fd}`])).toBe("");
    closeFd(fd);
  });

  test("errno is right over many calls", () => {
    for (let i = 0; i < 2000; i++) {
      expect(codeOf(() => openBeneath(dir, "absent", c.O_RDONLY))).toBe("ENOENT");
      expect(codeOf(() => openBeneath(dir, "escape", c.O_RDONLY))).toBe("EXDEV");
    }
  });
});

test("create, rename without replacing, remove", () => {
  mkdirAt(dir, "new", 0o700);
  const made = openBeneath(dir, "new", c.O_PATH | c.O_DIRECTORY);
  closeFd(openBeneath(made, "a", c.O_WRONLY | c.O_CREAT | c.O_EXCL, 0o640));
  expect(lstatSync(join(inside, "new", "a")).mode & 0o777).toBe(0o640);
  expect(codeOf(() => renameAt(made, "a", dir, "file", c.RENAME_NOREPLACE))).toBe("EEXIST");
  renameAt(made, "a", made, "b");
  expect(readdirSync(join(inside, "new"))).toEqual(["b"]);
  unlinkAt(made, "b");
  closeFd(made);
  unlinkAt(dir, "new", c.AT_REMOVEDIR);
  expect(readdirSync(inside)).not.toContain("new");
});

test.each(["a/b", ".", "..", "", "/etc", "a\0"])("%j is not a name", (name) => {
  expect(codeOf(() => unlinkAt(dir, name))).toBe("EINVAL");
  expect(codeOf(() => mkdirAt(dir, name, 0o700))).toBe("EINVAL");
  expect(codeOf(() => renameAt(dir, "file", dir, name))).toBe("EINVAL");
  expect(read("file")).toBe("file");
});

test("bytes that spell .. are not a name either", () => {
  expect(codeOf(() => unlinkAt(dir, new TextEncoder().encode(".."), c.AT_REMOVEDIR))).toBe("EINVAL");
});

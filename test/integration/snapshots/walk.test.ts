import { expect, test } from "bun:test";
import { mkdirSync, openSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { closeFd, mkdirAt, openBeneath } from "../../../src/kernel/openat2.ts";
import { walk } from "../../../src/snapshots/walk.ts";
import { OPEN_DIRECTORY } from "../../../src/volumes/beneath.ts";
import { Descriptor } from "../../../src/volumes/descriptor.ts";
import { openDescriptors, scratchDirectory } from "../../fixtures/scratch.ts";

/** The paths that a walk finds, in its order, and how many files it had open at most. */
function walked(path: string, limits?: Parameters<typeof walk>[1]) {
  using root = new Descriptor(openSync(path, "r"));
  const before = openDescriptors(path);
  const names: string[] = [];
  const paths: string[] = [];
  let opened = 0;
  for (const found of walk(root, limits)) {
    if (found === null) continue;
    names.splice(found.depth, Infinity, found.text);
    paths.push(found.depth < 10 ? names.join("/") : found.text);
    if (paths.length % 50 === 0) opened = Math.max(opened, openDescriptors(path) - before);
  }
  expect(openDescriptors(path)).toBe(before);
  return { paths, opened };
}

/** By components, each by its bytes: what a manifest's order is. */
function inOrder(paths: readonly string[]): string[] {
  const key = (path: string) => path.replaceAll("/", "\0");
  return paths.toSorted((a, b) => (key(a) < key(b) ? -1 : 1));
}

test("however little memory it may take, it finds everything once and in order", () => {
  using scratch = scratchDirectory();
  const files: string[] = [];
  const directories = ["a", "a.b", "b", "c"];
  for (const top of ["a", "a.b", "b", "c"]) {
    for (let inner = 0; inner < 60; inner++) {
      const path = `${top}/${"n".repeat(inner % 7)}${inner}`;
      if (inner % 20 > 0) files.push(path);
      else {
        directories.push(path);
        for (let file = 0; file < 10; file++) files.push(`${path}/${file}`);
      }
    }
  }
  const expected = [...directories, ...files];
  for (const path of directories) mkdirSync(join(scratch.path, path));
  for (const path of files) writeFileSync(join(scratch.path, path), "");
  const plenty = walked(scratch.path).paths;
  expect(plenty).toEqual(inOrder(expected));
  for (const namesBytes of [1, 200, 1_000]) {
    expect(walked(scratch.path, { namesBytes, namesAboveBytes: 0 }).paths).toEqual(plenty);
  }
});

test("a tree of any depth takes few descriptors, and names further up are found again", () => {
  using scratch = scratchDirectory();
  const depth = 2_100;
  let fd = openSync(scratch.path, "r");
  for (let level = 0; level < depth; level++) {
    mkdirAt(fd, "b", 0o755);
    if (level % 20 === 0) mkdirAt(fd, "c", 0o755);
    const below = openBeneath(fd, "b", OPEN_DIRECTORY);
    closeFd(fd);
    fd = below;
  }
  closeFd(fd);
  try {
    for (const limits of [undefined, { namesBytes: 1, namesAboveBytes: 0 }]) {
      const { paths, opened } = walked(scratch.path, limits);
      expect(paths).toHaveLength(depth + depth / 20);
      expect(paths[0]).toBe("b");
      expect(paths.at(-1)).toBe("c");
      expect(opened).toBeLessThan(40);
    }
  } finally {
    // Deeper than node can name.
    Bun.spawnSync(["rm", "-rf", join(scratch.path, "b")]);
  }
}, 120_000);

test("it follows no link, also not to a directory", () => {
  using scratch = scratchDirectory();
  mkdirSync(join(scratch.path, "outside"));
  writeFileSync(join(scratch.path, "outside/secret"), "");
  mkdirSync(join(scratch.path, "inside"));
  symlinkSync("../outside", join(scratch.path, "inside/link"));
  symlinkSync(".", join(scratch.path, "inside/loop"));
  expect(walked(join(scratch.path, "inside")).paths).toEqual(["link", "loop"]);
});

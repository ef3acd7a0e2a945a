import { codeOf } from "../errors.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { OPEN_DIRECTORY } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";

/** Paths are names, as bytes, from a root on. */
export type Names = readonly Uint8Array[];

export type Reach = ReturnType<typeof createReach>;

/**
 * Opens the directories of many paths that come in a tree's order, each from the one before: a path costs as much as it
 * differs from the last. It follows no link and leaves no file system. Holds a descriptor for each level.
 */
export function createReach(root: Descriptor) {
  const open: { readonly name: Uint8Array; readonly dir: Descriptor }[] = [];

  function closeFrom(depth: number): void {
    for (const { dir } of open.splice(depth).toReversed()) dir[Symbol.dispose]();
  }

  return {
    /** As many of these names as are directories one in the other; `dir` is the last of them. Valid until the next call. */
    to(names: Names): { readonly dir: Descriptor; readonly depth: number } {
      let depth = 0;
      for (const name of names) {
        const known = open[depth];
        if (known === undefined || Buffer.compare(known.name, name) !== 0) break;
        depth += 1;
      }
      closeFrom(depth);
      for (const name of names.slice(depth)) {
        const dir = openChild(open.at(-1)?.dir ?? root, name);
        if (dir === null) break;
        open.push({ name, dir });
      }
      return { dir: open.at(-1)?.dir ?? root, depth: open.length };
    },

    /** What lies at these names, or beneath, is another than before. */
    forget(names: Names): void {
      closeFrom(Math.max(0, names.length - 1));
    },

    [Symbol.dispose](): void {
      closeFrom(0);
    },
  };
}

/** null for what is no directory. */
function openChild(dir: Descriptor, name: Uint8Array): Descriptor | null {
  const flags = OPEN_DIRECTORY | constants.O_NOFOLLOW;
  try {
    return new Descriptor(openBeneath(dir.fd, name, flags, 0, { noSymlinks: true, noMounts: true }));
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "ELOOP", "EXDEV"].includes(codeOf(error) ?? "")) return null;
    throw error;
  }
}

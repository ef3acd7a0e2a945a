import { constants, openBeneath } from "../../kernel/openat2.ts";
import type { Time } from "../../kernel/look.ts";
import type { Content, ContentSource } from "../../snapshots/build.ts";
import type { FileEntry } from "../../snapshots/manifest.ts";
import { openContent } from "../../snapshots/read.ts";
import { OPEN_DIRECTORY } from "../../volumes/beneath.ts";
import { Descriptor } from "../../volumes/descriptor.ts";
import { createCopier, isGone } from "./copy.ts";

/** Each holds a descriptor; what lies deeper comes from the blobs. */
const MAX_LEVELS = 64;
/** Some ticks of the kernel's clock, which is what ctime is read from. */
const TICKS_S = 0.05;

/**
 * The namespace's own files as where a fork takes its contents from, while the namespace goes on. A file that has the
 * inode, size and ctime of its entry is the one that was read for it, wherever it lies; it is looked at again once it was
 * copied. What does not hold all that, or changed too shortly before the manifest for a clock to tell, comes from the
 * blobs.
 */
export function liveSource(live: Descriptor, started: number): ContentSource & Disposable {
  const copier = createCopier();
  const trustedBefore = started / 1000 - TICKS_S;
  /** null: nothing there to look into. */
  const open: (Descriptor | null)[] = [new Descriptor(openBeneath(live.fd, ".", OPEN_DIRECTORY))];

  function contentOf(entry: FileEntry, dir: Descriptor): Content | null {
    const file = openContent(dir.fd, entry.name);
    if (file === null) return null;
    const { look, fd } = file;
    const same = look.inode === entry.inode && look.size === entry.size && isTime(look.ctime, entry.ctime);
    if (!same || seconds(look.ctime) >= trustedBefore) {
      file[Symbol.dispose]();
      return null;
    }
    return {
      copy: async (to) => copier.copy(fd, look, to),
      [Symbol.dispose]: () => file[Symbol.dispose](),
    };
  }

  return {
    enter({ name }) {
      const above = open.at(-1) ?? null;
      open.push(above === null || open.length >= MAX_LEVELS ? null : openChild(above, name));
    },
    leave() {
      open.pop()?.[Symbol.dispose]();
    },
    open(entry) {
      const dir = open.at(-1) ?? null;
      return dir === null ? null : contentOf(entry, dir);
    },
    [Symbol.dispose]() {
      for (const dir of open) dir?.[Symbol.dispose]();
    },
  };
}

function openChild(dir: Descriptor, name: Uint8Array): Descriptor | null {
  const flags = OPEN_DIRECTORY | constants.O_NOFOLLOW;
  try {
    return new Descriptor(openBeneath(dir.fd, name, flags, 0, { noSymlinks: true, noMounts: true }));
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

const isTime = (a: Time, b: Time): boolean => a[0] === b[0] && a[1] === b[1];
const seconds = ([whole, nanoseconds]: Time): number => whole + nanoseconds / 1e9;

import { codeOf } from "../errors.ts";
import { readLinkAt, statAt, type FileStatus } from "../kernel/directory.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { Descriptor } from "./descriptor.ts";
import { refusedPath } from "./path.ts";

/** Where commands see the workspace: a link they make to its absolute path stays inside. */
const SANDBOX_WORKSPACE = "/home/agent/workspace";
/** As many as the kernel follows in one look-up. */
const MAX_LINKS = 40;
/**
 * What one call may ask the kernel for. Each look-up keeps the event loop for a millisecond at worst (40 links of 2,000
 * names), and a tenant chooses how many are needed: an ordinary link takes five.
 */
const MAX_LOOKUPS = 200;

const { O_PATH, O_RDONLY, O_DIRECTORY } = constants;
export const OPEN_DIRECTORY = O_RDONLY | O_DIRECTORY;

/** Counts down while links are followed by hand; shared by all that one call looks up. */
export interface Lookups {
  left: number;
}

export function lookups(count = MAX_LOOKUPS): Lookups {
  return { left: count };
}

/**
 * Opens a path of a namespace. Whatever the tenant swaps meanwhile, the kernel keeps the look-up beneath `live`
 * (EXDEV), so the texts of links that are read here only choose what to ask it for next.
 */
export function openInside(
  live: Descriptor,
  inner: string,
  flags: number,
  budget: Lookups = lookups(),
): Descriptor {
  let path = inner === "" ? "." : inner;
  for (;;) {
    try {
      return new Descriptor(openBeneath(live.fd, path, flags));
    } catch (error) {
      const next = codeOf(error) === "EXDEV" ? throughAbsoluteLink(live, path, budget) : null;
      if (next === null) throw error;
      path = next;
    }
  }
}

/** `path` with its first absolute link into the workspace followed; null when what leads out is something else. */
function throughAbsoluteLink(live: Descriptor, path: string, budget: Lookups): string | null {
  const names = path.split("/").filter((name) => name !== "");
  // The name that leads out: what ends before it stays inside, what ends behind it does not.
  let [inside, outside] = [0, names.length];
  while (outside - inside > 1) {
    const middle = Math.floor((inside + outside) / 2);
    if (budget.left-- <= 0) return null;
    if (leadsOut(live, names.slice(0, middle).join("/"))) outside = middle;
    else inside = middle;
  }
  const name = names[inside];
  if (name === undefined || budget.left-- <= 0) return null;
  const before = names.slice(0, inside).join("/");
  const text = linkText(live, before, name);
  if (text === null) return null;
  const rest = names.slice(outside).join("/");
  if (!text.startsWith("/")) return joined(before, text, rest);
  const target = insideSandbox(text);
  return target === null ? null : joined(target, rest);
}

function linkText(live: Descriptor, before: string, name: string): string | null {
  using dir = new Descriptor(openBeneath(live.fd, before === "" ? "." : before, O_PATH | O_DIRECTORY));
  return readLink(dir, name);
}

function leadsOut(live: Descriptor, path: string): boolean {
  try {
    using _ = new Descriptor(openBeneath(live.fd, path, O_PATH));
    return false;
  } catch (error) {
    return codeOf(error) === "EXDEV";
  }
}

/** null for what is no link, or absent. */
function readLink(dir: Descriptor, name: string): string | null {
  try {
    return Buffer.from(readLinkAt(dir.fd, name)).toString();
  } catch (error) {
    if (codeOf(error) === "EINVAL" || codeOf(error) === "ENOENT") return null;
    throw error;
  }
}

function insideSandbox(text: string): string | null {
  if (text === SANDBOX_WORKSPACE) return ".";
  return text.startsWith(`${SANDBOX_WORKSPACE}/`) ? text.slice(SANDBOX_WORKSPACE.length + 1) : null;
}

function joined(...parts: string[]): string {
  return parts.filter((part) => part !== "").join("/");
}

/** An entry of a directory, itself no link when it was looked at; `status` is null while it does not exist. */
export interface Place extends Disposable {
  readonly dir: Descriptor;
  readonly name: string;
  readonly status: FileStatus | null;
}

/**
 * The entry that writing to `inner` replaces: as for a shell's `>`, links at the end are followed.
 * `firstDir` is the directory of `inner`, and is closed with the answer.
 */
export function placeOf(live: Descriptor, inner: string, firstDir: Descriptor): Place {
  const budget = lookups();
  let dir = firstDir;
  let path = inner;
  try {
    for (let links = 0; ; links++) {
      const [dirPath, name] = split(path);
      if (links > 0) {
        dir[Symbol.dispose]();
        dir = openInside(live, dirPath, OPEN_DIRECTORY, budget);
      }
      const text = readLink(dir, name);
      if (text === null) return place(dir, name);
      if (links >= MAX_LINKS) throw refusedPath();
      const inside = text.startsWith("/") ? insideSandbox(text) : joined(dirPath, text);
      if (inside === null) throw refusedPath();
      path = inside;
    }
  } catch (error) {
    dir[Symbol.dispose]();
    throw error;
  }
}

/** `a/b/c` as `a/b` and `c`. A link's text may end in what is a directory's name only: that is for the kernel to say. */
function split(path: string): [dir: string, name: string] {
  const names = path.split("/").filter((name) => name !== "");
  const last = names.at(-1) ?? ".";
  return last === "." || last === ".." ? [names.join("/"), "."] : [names.slice(0, -1).join("/"), last];
}

function place(dir: Descriptor, name: string): Place {
  return { dir, name, status: statusAt(dir, name), [Symbol.dispose]: () => dir[Symbol.dispose]() };
}

/** null for what is absent. */
export function statusAt(dir: Descriptor, name: string | Uint8Array): FileStatus | null {
  try {
    return statAt(dir.fd, name);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw error;
  }
}

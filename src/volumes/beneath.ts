import { readLinkAt, statAt, type FileStatus } from "../kernel/directory.ts";
import { constants, openBeneath } from "../kernel/openat2.ts";
import { Descriptor } from "./descriptor.ts";
import { codeOf } from "./failure.ts";
import { refusedPath } from "./path.ts";

/** Where commands see the workspace: a link they make to its absolute path stays inside. */
const SANDBOX_WORKSPACE = "/home/agent/workspace";
/** As many as the kernel follows in one look-up. */
const MAX_LINKS = 40;

const { O_PATH, O_RDONLY, O_DIRECTORY } = constants;
export const OPEN_DIRECTORY = O_RDONLY | O_DIRECTORY;

/**
 * Opens a path of a namespace. Whatever the tenant swaps meanwhile, the kernel keeps the look-up beneath `live`
 * (EXDEV), so the texts of links that are read here only choose what to ask it for next.
 */
export function openInside(live: Descriptor, inner: string, flags: number): Descriptor {
  let path = inner === "" ? "." : inner;
  for (let links = 0; ; links++) {
    try {
      return new Descriptor(openBeneath(live.fd, path, flags));
    } catch (error) {
      const next = codeOf(error) === "EXDEV" && links < MAX_LINKS ? throughAbsoluteLink(live, path) : null;
      if (next === null) throw error;
      path = next;
    }
  }
}

/** `path` with its first absolute link into the workspace followed; null when what leads out is something else. */
function throughAbsoluteLink(live: Descriptor, path: string): string | null {
  const names = path.split("/").filter((name) => name !== "");
  for (const [index, name] of names.entries()) {
    const before = names.slice(0, index).join("/");
    const text = linkText(live, before, name);
    if (text === null) continue;
    const rest = names.slice(index + 1).join("/");
    if (text.startsWith("/")) {
      const inside = insideSandbox(text);
      return inside === null ? null : joined(inside, rest);
    }
    if (leadsOut(live, joined(before, name))) return joined(before, text, rest);
  }
  return null;
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
  let dir = firstDir;
  let path = inner;
  try {
    for (let links = 0; ; links++) {
      const [dirPath, name] = split(path);
      if (links > 0) {
        dir[Symbol.dispose]();
        dir = openInside(live, dirPath, OPEN_DIRECTORY);
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

function statusAt(dir: Descriptor, name: string): FileStatus | null {
  try {
    return statAt(dir.fd, name);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw error;
  }
}

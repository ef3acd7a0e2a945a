import { isUtf8 } from "node:buffer";
import { readFile, writeFile } from "node:fs/promises";
import { z } from "zod";
import { codeOf } from "../errors.ts";
import { statAt, type FileStatus } from "../kernel/directory.ts";
import {
  constants,
  fchmodFd,
  fchownFd,
  mkdirAt,
  openBeneath,
  renameAt,
  unlinkAt,
} from "../kernel/openat2.ts";
import { OPEN_DIRECTORY, statusAt } from "./beneath.ts";
import { Descriptor } from "./descriptor.ts";
import { syncFile } from "./disk.ts";
import { TENANT } from "./parents.ts";
import { createPause } from "./pause.ts";
import { createReach, type Names, type Reach } from "./reach.ts";
import type { Space } from "./space.ts";

/*
 * Many changes of a workspace, all or none. What is to come lies ready in a directory of tmp, with a list of the changes
 * beside it, on the disk. One rename of that directory to REDO decides: from then on they are made, if need be by whoever
 * opens the volume next, before anybody else sees it. Each change can be made again when it was made already.
 */

/** In tmp. No fresh name looks like this. */
export const REDO = "redo";
const LIST = "list";
/** Of a step that finds something else than it has just looked at. */
const ATTEMPTS = 16;
const MOVED: ReadonlySet<string> = new Set([
  "ENOENT",
  "EEXIST",
  "ENOTDIR",
  "EISDIR",
  "ENOTEMPTY",
  "ELOOP",
  "EXDEV",
]);
const { AT_REMOVEDIR, O_NOFOLLOW, RENAME_NOREPLACE } = constants;

/** One change, in the order in which they are to be made. What is in the way of one goes. */
export type Step =
  /** What lies ready under this name takes its place. */
  | { readonly step: "put"; readonly path: Names; readonly from: string }
  /** There is a directory, which keeps its mode if it was one. */
  | { readonly step: "directory"; readonly path: Names; readonly mode: number }
  | { readonly step: "mode"; readonly path: Names; readonly mode: number }
  /** It is gone; a directory only when nothing is in it, or `whole`. */
  | { readonly step: "gone"; readonly path: Names; readonly whole: boolean };

const text = z.union([z.string(), z.strictObject({ base64: z.string() })]);
const line = z.discriminatedUnion("step", [
  z.strictObject({ step: z.literal("put"), path: z.array(text), from: z.string() }),
  z.strictObject({ step: z.literal("directory"), path: z.array(text), mode: z.int() }),
  z.strictObject({ step: z.literal("mode"), path: z.array(text), mode: z.int() }),
  z.strictObject({ step: z.literal("gone"), path: z.array(text), whole: z.boolean() }),
]);

/** Puts the list beside what lies ready in `dir`. It is on the disk when this resolves. */
export async function writeList(dir: Descriptor, steps: readonly Step[]): Promise<void> {
  const lines = steps.map((step) => `${JSON.stringify({ ...step, path: step.path.map(encode) })}\n`);
  await writeFile(dir.entry(LIST), lines.join(""), { mode: 0o600 });
  using list = new Descriptor(openBeneath(dir.fd, LIST, constants.O_RDONLY | O_NOFOLLOW));
  await syncFile(list.fd);
  await syncFile(dir.fd);
}

/** From when this returns, what the directory `name` of tmp lists is to be made; from when it resolves, also after a power cut. */
export function decide(space: Space, name: string): Promise<void> {
  renameAt(space.tmp.fd, name, space.tmp.fd, REDO, RENAME_NOREPLACE);
  return synced(space.tmp);
}

/**
 * Makes what was decided on, or the rest of it. Nobody else may touch the files meanwhile. Returns the name in tmp of what
 * is left over, which only needs to be purged; null when nothing was to be done.
 */
export async function redo(space: Space, freshName: () => string): Promise<string | null> {
  if (statusAt(space.tmp, REDO) === null) return null;
  {
    using ready = new Descriptor(openBeneath(space.tmp.fd, REDO, OPEN_DIRECTORY | O_NOFOLLOW));
    using live = new Descriptor(openBeneath(space.live.fd, ".", OPEN_DIRECTORY));
    using reach = createReach(live);
    const pause = createPause();
    const making: Making = { space, ready, reach, freshName };
    const list = await readFile(ready.entry(LIST), "utf8");
    for (const step of parse(list)) {
      makeSurely(step, making);
      await pause();
    }
    await syncParents(list, live);
  }
  const left = freshName();
  renameAt(space.tmp.fd, REDO, space.tmp.fd, left);
  await synced(space.tmp);
  return left;
}

/**
 * What was renamed is on the disk already, so that only the names have to get there: a flush of the whole file system would
 * wait for what everybody else has written.
 */
async function syncParents(list: string, live: Descriptor): Promise<void> {
  using reach = createReach(live);
  const seen = new Set<string>();
  for (const { path } of parse(list)) {
    const above = path.slice(0, -1);
    const key = above.map((name) => Buffer.from(name).toString("latin1")).join("\0");
    if (seen.has(key)) continue;
    seen.add(key);
    const { dir, depth } = reach.to(above);
    // Gone with what was in it: the directory above says so.
    if (depth === above.length) await syncFile(dir.fd);
  }
}

function* parse(lines: string): Generator<Step> {
  for (let at = 0; at < lines.length;) {
    const end = lines.indexOf("\n", at);
    const step = line.parse(JSON.parse(lines.slice(at, end)));
    yield { ...step, path: step.path.map(decode) };
    at = end + 1;
  }
}

interface Making {
  readonly space: Space;
  readonly ready: Descriptor;
  readonly reach: Reach;
  readonly freshName: () => string;
}

/**
 * Whoever moves things about in the namespace meanwhile, in a sandbox that did not stand still, gets what comes of it; but no
 * step may fail for that, or the namespace could not be opened again.
 */
function makeSurely(step: Step, making: Making): void {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    try {
      make(step, making);
      return;
    } catch (error) {
      if (!MOVED.has(codeOf(error) ?? "")) throw error;
      making.reach.forget([]);
    }
  }
}

function make(step: Step, making: Making): void {
  const { reach, ready } = making;
  const { path } = step;
  const name = path.at(-1);
  if (name === undefined) return;
  const { dir, depth } = reach.to(path.slice(0, -1));
  // Only when somebody broke into the namespace meanwhile; or what is to go is gone with it.
  if (depth < path.length - 1) return;
  const there = statusAt(dir, name);
  switch (step.step) {
    case "put": {
      // It is in its place already.
      if (statusAt(ready, step.from) === null) return;
      // Not over a file either: to free what that holds takes as long as three renames, and can be done later.
      if (there?.kind === "directory" || there?.kind === "file") setAside(dir, name, path, making);
      renameAt(ready.fd, step.from, dir.fd, name);
      return;
    }
    case "directory":
      if (there?.kind === "directory") return;
      if (there !== null) remove(there, dir, name, path, making);
      makeDirectory(making, dir, name, step.mode);
      return;
    case "mode":
      if (there?.kind === "directory") setMode(dir, name, step.mode);
      return;
    case "gone":
      if (there === null) return;
      if (there.kind !== "directory") remove(there, dir, name, path, making);
      else if (step.whole) setAside(dir, name, path, making);
      else removeEmpty(dir, name, path, reach);
      return;
    default:
      step satisfies never;
  }
}

/** By a rename where what it holds may be long. Landlock lets this process move nothing but files and directories. */
function remove(there: FileStatus, dir: Descriptor, name: Uint8Array, path: Names, making: Making): void {
  if (there.kind === "file") setAside(dir, name, path, making);
  else unlinkAt(dir.fd, name);
}

function setAside(dir: Descriptor, name: Uint8Array, path: Names, { ready, reach, freshName }: Making): void {
  reach.forget(path);
  renameAt(dir.fd, name, ready.fd, freshName());
}

function removeEmpty(dir: Descriptor, name: Uint8Array, path: Names, reach: Reach): void {
  reach.forget(path);
  try {
    unlinkAt(dir.fd, name, AT_REMOVEDIR);
  } catch (error) {
    // What somebody has put there since stays, and it with that.
    if (codeOf(error) !== "ENOTEMPTY" && codeOf(error) !== "EEXIST") throw error;
  }
}

/** It appears with its owner and mode: a process killed in between leaves no directory that the tenant can't use. */
function makeDirectory(
  { ready, freshName }: Pick<Making, "ready" | "freshName">,
  dir: Descriptor,
  name: Uint8Array,
  mode: number,
): void {
  const fresh = freshName();
  mkdirAt(ready.fd, fresh, 0o700);
  {
    using made = new Descriptor(openBeneath(ready.fd, fresh, OPEN_DIRECTORY | O_NOFOLLOW));
    fchownFd(made.fd, TENANT, TENANT);
    fchmodFd(made.fd, mode);
  }
  renameAt(ready.fd, fresh, dir.fd, name, RENAME_NOREPLACE);
}

function setMode(dir: Descriptor, name: Uint8Array, mode: number): void {
  using found = new Descriptor(openBeneath(dir.fd, name, OPEN_DIRECTORY | O_NOFOLLOW));
  if (statAt(dir.fd, name).mode !== mode) fchmodFd(found.fd, mode);
}

async function synced(tmp: Descriptor): Promise<void> {
  using readable = new Descriptor(openBeneath(tmp.fd, ".", OPEN_DIRECTORY));
  await syncFile(readable.fd);
}

type Text = z.infer<typeof text>;

function encode(name: Uint8Array): Text {
  const bytes = Buffer.from(name);
  return isUtf8(bytes) ? bytes.toString() : { base64: bytes.toString("base64") };
}

function decode(name: Text): Uint8Array {
  return typeof name === "string" ? Buffer.from(name) : Buffer.from(name.base64, "base64");
}

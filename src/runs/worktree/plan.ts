import { statFd } from "../../kernel/directory.ts";
import { constants, openBeneath } from "../../kernel/openat2.ts";
import { walk } from "../../snapshots/walk.ts";
import { OPEN_DIRECTORY } from "../../volumes/beneath.ts";
import { Descriptor } from "../../volumes/descriptor.ts";
import type { Pause } from "../../volumes/pause.ts";
import { createReach, type Names, type Reach } from "../../volumes/reach.ts";
import type { Step } from "../../volumes/redo.ts";
import { shownPath, type ShownPath } from "./path.ts";
import { lookTo, type There, type Verdicts } from "./verdict.ts";
import type { Wish } from "./wish.ts";

/** Whose side counts where both have changed the same path. */
export type OnConflict = "fail" | "run" | "namespace";

type What = "added" | "modified" | "deleted";

/** A path that both have changed, each in its way. */
export interface Conflict extends ShownPath {
  readonly run: What;
  readonly namespace: What;
}

export interface Plan {
  readonly steps: readonly Step[];
  readonly conflicts: readonly Conflict[];
  /** Files and links that come or go. */
  readonly files: number;
}

export interface PlanParts {
  readonly wishes: readonly Wish[];
  readonly live: Descriptor;
  readonly work: Descriptor;
  readonly verdicts: Verdicts;
  readonly onConflict: OnConflict;
  /** Under which name what a wish wants lies ready. */
  readonly readyName: (wish: Wish) => string;
  readonly pause: Pause;
}

/**
 * What has to be done to the namespace's files for a run's changes to be in them, over what the namespace has now. A path
 * that only one of the two has changed since the fork is as that one left it; what both have done alike is no conflict. A
 * directory that the run deleted stays when somebody has put something into it since.
 */
export async function planOf(parts: PlanParts): Promise<Plan> {
  const { wishes, live, work, verdicts, onConflict, readyName, pause } = parts;
  using reach = createReach(live);
  using mine = createReach(work);
  const gone: Step[] = [];
  const come: Step[] = [];
  const conflicts: Conflict[] = [];
  /** Directories that are made on the way. */
  const made = new Set<string>();
  const counted = { files: 0 };
  /** What lies beneath is settled. */
  let settled: Names | null = null;

  function note(path: Names, run: What, namespace: What): void {
    conflicts.push({ ...shownPath(path), run, namespace });
  }

  /** The directories above, with the modes that the run's have. */
  function makeParents(path: Names, { depth }: There): void {
    for (let length = depth + 1; length < path.length; length++) {
      const above = path.slice(0, length);
      if (made.has(keyOf(above))) continue;
      made.add(keyOf(above));
      const { dir } = mine.to(above);
      come.push({ step: "directory", path: above, mode: statFd(dir.fd).mode });
    }
  }

  function grant(wish: Wish, there: There): void {
    const { path, before, after } = wish;
    if (after === null) {
      if (there.look !== null && there.look.kind !== "directory") counted.files += 1;
      gone.push({ step: "gone", path, whole: before?.type !== "dir" });
      return;
    }
    makeParents(path, there);
    if (after.kind !== "directory") {
      counted.files += 1;
      come.push({ step: "put", path, from: readyName(wish) });
    } else if (there.look?.kind === "directory") {
      come.push({ step: "mode", path, mode: after.mode });
    } else {
      made.add(keyOf(path));
      come.push({ step: "directory", path, mode: after.mode });
    }
  }

  /** Both have changed it. */
  function dispute(wish: Wish, there: There): void {
    const { path, before, after } = wish;
    const run = before === null ? "added" : after === null ? "deleted" : "modified";
    const namespace = before === null ? "added" : there.look === null ? "deleted" : "modified";
    note(path, run, namespace);
    if (onConflict === "run") grant(wish, there);
    else settled = path;
  }

  function thereOf(path: Names) {
    const there = lookTo(reach, path);
    // What is in the way makes room for a directory.
    if (there.blocked && made.has(keyOf(path.slice(0, there.depth + 1)))) return { ...there, blocked: false };
    return there;
  }

  /** A directory of the base that the run has made into something else: it goes with all that is in it, or not at all. */
  async function replaceDirectory(wish: Wish, there: There, beneath: readonly Wish[]): Promise<void> {
    const { path } = wish;
    const expected = new Set(beneath.map((child) => keyOf(child.path)));
    const before = conflicts.length;
    for (const child of beneath) {
      const { look, dirFd } = lookTo(reach, child.path);
      if (look === null || (look.kind === "directory" && child.before?.type === "dir")) continue;
      if ((await verdicts.of(child, look, dirFd)) === "changed") note(child.path, "deleted", "modified");
      await pause();
    }
    for (const added of await namesBeneath(reach, path, pause)) {
      if (!expected.has(keyOf(added))) note(added, "deleted", "added");
    }
    if (conflicts.length === before || onConflict === "run") grant(wish, there);
    settled = path;
  }

  for (let index = 0; index < wishes.length; index++) {
    const wish = wishes[index];
    if (wish === undefined) break;
    await pause();
    const { path, before, after } = wish;
    if (settled !== null && isBeneath(path, settled)) continue;
    settled = null;
    const there = thereOf(path);
    const { look } = there;
    if (there.blocked) {
      // Gone with the directory that it was in; or nowhere to be put.
      if (after !== null) dispute(wish, there);
    } else if (before?.type === "dir" && look?.kind === "directory" && after?.kind !== "directory") {
      if (after === null) grant(wish, there);
      else {
        let end = index + 1;
        while (isBeneath(wishes[end]?.path ?? [], path)) end += 1;
        await replaceDirectory(wish, there, wishes.slice(index + 1, end));
      }
    } else {
      const verdict = await verdicts.of(wish, look, there.dirFd);
      if (verdict === "stands") grant(wish, there);
      else if (verdict === "changed") dispute(wish, there);
    }
  }
  return { steps: [...gone.toReversed(), ...come], conflicts, files: counted.files };
}

async function namesBeneath(reach: Reach, path: Names, pause: Pause): Promise<Names[]> {
  const { dir } = reach.to(path);
  using root = new Descriptor(openBeneath(dir.fd, ".", OPEN_DIRECTORY | constants.O_NOFOLLOW));
  const found: Names[] = [];
  const names: Uint8Array[] = [];
  for (const entry of walk(root)) {
    await pause();
    if (entry === null) continue;
    names.splice(entry.depth, Infinity, entry.name);
    found.push([...path, ...names]);
  }
  return found;
}

function isBeneath(path: Names, above: Names): boolean {
  if (path.length <= above.length) return false;
  return above.every((name, index) => Buffer.compare(name, path[index] ?? NOTHING) === 0);
}

const NOTHING = new Uint8Array();

/** No name has a NUL. */
function keyOf(path: Names): string {
  return path.map((name) => Buffer.from(name).toString("latin1")).join("\0");
}

import { ftruncateSync, openSync, rmdirSync } from "node:fs";
import type { SealedBlobs } from "../blobs/sealed.ts";
import { AppError, codeOf } from "../errors.ts";
import { readDirectory } from "../kernel/directory.ts";
import {
  chownLinkAt,
  closeFd,
  constants,
  fchmodFd,
  fchownFd,
  linkAt,
  mkdirAt,
  openBeneath,
  renameAt,
  setModified,
  symlinkAt,
  unlinkAt,
} from "../kernel/openat2.ts";
import { OPEN_DIRECTORY } from "../volumes/beneath.ts";
import { Descriptor } from "../volumes/descriptor.ts";
import { writeAt } from "../volumes/disk.ts";
import { TENANT } from "../volumes/parents.ts";
import { createPause, type Pause } from "../volumes/pause.ts";
import type { CheckRoom } from "../volumes/replace.ts";
import { createFlow } from "./flow.ts";
import {
  damagedManifest,
  decodeManifest,
  readHead,
  type DirectoryEntry,
  type Entry,
  type Extent,
  type FileEntry,
  type Head,
  type ManifestRef,
} from "./manifest.ts";
import { createBlobReader } from "./reader.ts";

const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_CLOEXEC } = constants;
/** Files that are written at once. */
const AT_ONCE = 8;
const NO_FILE = "another name of no file";

export interface Tree {
  readonly blobs: Pick<SealedBlobs, "get">;
  readonly ref: ManifestRef;
  readonly signal?: AbortSignal | undefined;
  /** Asked before each file and each piece of one. */
  readonly checkRoom?: CheckRoom | undefined;
  readonly source?: ContentSource | undefined;
}

/**
 * Where the contents of files may be taken from besides the blobs. Told of each directory as it is entered and left, and of
 * each file in it.
 */
export interface ContentSource {
  enter(entry: DirectoryEntry): void;
  leave(): void;
  /** null when it does not have what the entry says. */
  open(entry: FileEntry): Content | null;
}

export interface Content extends Disposable {
  /** Fills the empty file. False when its content is not what the entry says after all; what is in `fd` then counts not. */
  copy(fd: number): Promise<boolean>;
}

const NO_SOURCE: ContentSource = { enter() {}, leave() {}, open: () => null };

export interface Built {
  readonly files: number;
  readonly bytes: number;
}

/** A file that is made and not yet whole: more of its data may come. */
interface Unfinished {
  readonly entry: FileEntry;
  readonly fd: number;
  /** null once its content comes from the blobs, or is there. */
  content: Content | null;
  copied: boolean;
  extents: readonly Extent[];
}

/**
 * Makes the tree of a manifest in `root`, an empty directory out of every tenant's reach, and gives it to the tenant
 * with all that the manifest says of it. Throws when a blob is damaged, or the manifest does not add up. It is not on
 * the disk before the file system is flushed.
 */
export async function buildTree(
  { blobs, ref, signal, checkRoom, source }: Tree,
  root: Descriptor,
): Promise<Built> {
  const head = await readHead(blobs, ref);
  const built = await buildEntries(
    { blobs, entries: decodeManifest(blobs, ref), root: head.root, signal, checkRoom, source },
    root,
  );
  if (built.files !== head.files || built.bytes !== head.bytes) {
    throw damagedManifest("it does not have the files that it should");
  }
  return built;
}

export interface Entries extends Pick<Tree, "blobs" | "signal" | "checkRoom" | "source"> {
  /** In a manifest's order. */
  readonly entries: AsyncIterable<readonly Entry[]>;
  /** What is to be said of the root. */
  readonly root: Head["root"];
}

/** The same, from the entries themselves. */
export async function buildEntries(
  { blobs, entries, root: about, signal, checkRoom = () => {}, source = NO_SOURCE }: Entries,
  root: Descriptor,
): Promise<Built> {
  const pause = createPause(signal);
  const builder = createBuilder({ blobs, root, pause, checkRoom, source });
  let built: Built;
  try {
    for await (const batch of entries) {
      for (const entry of batch) {
        await builder.add(entry);
        await pause();
      }
    }
    built = await builder.finish();
  } catch (error) {
    throw failure(error);
  } finally {
    await builder.close();
  }
  fchownFd(root.fd, TENANT, TENANT);
  fchmodFd(root.fd, about.mode);
  setModified(root.fd, about.mtime);
  return built;
}

interface BuilderParts {
  readonly blobs: Pick<SealedBlobs, "get">;
  readonly root: Descriptor;
  readonly pause: Pause;
  readonly checkRoom: CheckRoom;
  readonly source: ContentSource;
}

function createBuilder({ blobs, root, pause, checkRoom, source }: BuilderParts) {
  const reader = createBlobReader(blobs);
  const flow = createFlow(AT_ONCE);
  const counted = { files: 0, bytes: 0 };
  /** What is to be said of the directories that are open, when all is in them. */
  const above: DirectoryEntry[] = [];
  /** One descriptor however deep the tree is. The way up is `..`: nobody else moves anything here. */
  let current = new Descriptor(openBeneath(root.fd, ".", OPEN_DIRECTORY));
  let unfinished: Unfinished | null = null;
  let links: Links | null = null;

  function enter(entry: DirectoryEntry): void {
    mkdirAt(current.fd, entry.name, 0o700);
    const child = new Descriptor(openBeneath(current.fd, entry.name, OPEN_DIRECTORY | O_NOFOLLOW));
    current[Symbol.dispose]();
    current = child;
    fchownFd(child.fd, TENANT, TENANT);
    above.push(entry);
    source.enter(entry);
  }

  function leave({ mode, mtime }: DirectoryEntry): void {
    const parent = new Descriptor(openSync(current.entry(".."), OPEN_DIRECTORY | O_CLOEXEC));
    fchmodFd(current.fd, mode);
    setModified(current.fd, mtime);
    current[Symbol.dispose]();
    current = parent;
    source.leave();
  }

  async function leaveTo(depth: number): Promise<void> {
    for (const entry of above.splice(depth).toReversed()) {
      leave(entry);
      await pause();
    }
  }

  function begin(entry: FileEntry): void {
    checkRoom(0);
    const fd = openBeneath(current.fd, entry.name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    unfinished = { entry, fd, content: source.open(entry), copied: false, extents: entry.data };
    counted.files += 1;
    counted.bytes += entry.size;
    if (entry.link === undefined) return;
    links ??= createLinks(root);
    links.keep(entry.link, current, entry.name);
  }

  /** From its source if that has it; else what its extents say. */
  async function write(file: Unfinished): Promise<void> {
    const { content, entry, fd } = file;
    if (content !== null) {
      checkRoom(entry.size);
      try {
        file.copied = await content.copy(fd);
        if (!file.copied) ftruncateSync(fd, 0);
      } finally {
        file.content = null;
        content[Symbol.dispose]();
      }
    }
    if (file.copied) return;
    for await (const { position, bytes } of reader.data(file.extents)) {
      if (position < 0 || position + bytes.length > file.entry.size) {
        throw damagedManifest("data behind the end of its file");
      }
      checkRoom(bytes.length);
      await writeAt(file.fd, bytes, position);
    }
  }

  async function complete(file: Unfinished): Promise<void> {
    const { fd, entry } = file;
    try {
      await write(file);
      if (!file.copied && endOf(file.extents) < entry.size) ftruncateSync(fd, entry.size);
      fchownFd(fd, TENANT, TENANT);
      // After the chown, which takes setuid and setgid away.
      fchmodFd(fd, entry.mode);
      setModified(fd, entry.mtime);
    } finally {
      // It has a name: nothing is freed, for which this would wait.
      closeFd(fd);
    }
  }

  function settle(): Promise<void> | undefined {
    const file = unfinished;
    unfinished = null;
    if (file === null) return undefined;
    // What lies in many blobs keeps the reader busy alone; several such would only drive each other's blobs out of it.
    return file.extents.length > 1 ? complete(file) : flow.start(async () => complete(file));
  }

  return {
    async add(entry: Entry): Promise<void> {
      if (entry.type === "more") {
        if (unfinished === null) throw damagedManifest("data of no file");
        await write(unfinished);
        unfinished.extents = entry.data;
        return;
      }
      await settle();
      if (above.length > entry.depth) await leaveTo(entry.depth);
      switch (entry.type) {
        case "dir":
          return enter(entry);
        case "file":
          return begin(entry);
        case "symlink":
          symlinkAt(entry.target, current.fd, entry.name);
          chownLinkAt(current.fd, entry.name, TENANT, TENANT);
          return setModified(current.fd, entry.mtime, entry.name);
        case "link":
          if (links === null) throw damagedManifest(NO_FILE);
          links.link(entry.first, current, entry.name);
          counted.files += 1;
          return undefined;
      }
    },

    async finish(): Promise<Built> {
      await settle();
      await flow.end();
      await leaveTo(0);
      return counted;
    },

    async close(): Promise<void> {
      await flow.end().catch(() => {});
      if (unfinished !== null) closeFd(unfinished.fd);
      unfinished?.content?.[Symbol.dispose]();
      await links?.remove();
      current[Symbol.dispose]();
    },
  };
}

/** Where the last data ends; behind it is a hole. */
function endOf(extents: readonly Extent[]): number {
  const [position, , , length] = extents.at(-1) ?? [0, "", 0, 0];
  return position + length;
}

type Links = ReturnType<typeof createLinks>;

/**
 * Files that have more names, each once more under its number: however many there are and wherever they lie, none of
 * that is kept in memory. Beside the tree's own names for a while, under one that is none of them.
 */
function createLinks(root: Descriptor) {
  const name = `.links-${crypto.randomUUID()}`;
  mkdirAt(root.fd, name, 0o700);
  const dir = new Descriptor(openBeneath(root.fd, name, OPEN_DIRECTORY));
  /** Those that have as many names as the file system allows, the one here no more. */
  const full = new Set<number>();
  return {
    keep: (number: number, from: Descriptor, fromName: Uint8Array) =>
      linkAt(from.fd, fromName, dir.fd, String(number)),

    link(number: number, to: Descriptor, toName: Uint8Array): void {
      try {
        linkAt(dir.fd, String(number), to.fd, toName);
      } catch (error) {
        const code = codeOf(error);
        if (code === "ENOENT") throw full.has(number) ? tooManyNames(error) : damagedManifest(NO_FILE);
        if (code !== "EMLINK") throw error;
        // The name here may be the one too many.
        full.add(number);
        renameAt(dir.fd, String(number), to.fd, toName);
      }
    },

    async remove(): Promise<void> {
      const pause = createPause();
      // Not while it is read: what is removed from a directory moves what is behind it.
      for (let left = true; left;) {
        left = false;
        using listed = new Descriptor(openBeneath(dir.fd, ".", OPEN_DIRECTORY));
        for (const batch of readDirectory(listed.fd)) {
          for (const entry of batch) {
            unlinkAt(dir.fd, entry.name);
            left = true;
            await pause();
          }
        }
      }
      dir[Symbol.dispose]();
      rmdirSync(root.entry(name));
    },
  };
}

function failure(error: unknown): unknown {
  switch (codeOf(error)) {
    case "ENOSPC":
    case "EDQUOT":
      return new AppError("no_space", "The disk is full; delete something and try again.", { cause: error });
    case "EEXIST":
      return damagedManifest("a name that is there twice");
    case "EMLINK":
      return tooManyNames(error);
    case undefined:
    default:
      return error;
  }
}

function tooManyNames(cause: unknown): AppError {
  return new AppError("no_space", "The file system cannot hold that many names of one file.", { cause });
}

import { isUtf8 } from "node:buffer";
import { z } from "zod";
import { BLOB_ID, type BlobId, type SealedBlobs } from "../blobs/sealed.ts";
import { AppError } from "../errors.ts";
import type { Time } from "../kernel/look.ts";
import { createFlow } from "./flow.ts";

/*
 * What a namespace's files are at one moment. A manifest is a list of blobs, and known by their ids. The first blob is
 * the head, a JSON object; the others hold the entries, a JSON object on each line, in depth-first order: a directory
 * stands before what is in it, and what is in it in the order of the names' bytes. So two manifests, or a manifest and
 * a walk of the disk, are compared in step, and neither is ever held in memory.
 *
 *   {"dir": NAME, "at": DEPTH, "mode": 493, "mtime": [SECONDS, NANOSECONDS]}
 *   {"file": NAME, "at", "link": N, "mode", "size": BYTES, "mtime", "ctime": [S, NS], "inode": N,
 *    "data": [[POSITION, BLOB, OFFSET, LENGTH], …], "hash": CONTENT}
 *   {"more": [[POSITION, BLOB, OFFSET, LENGTH], …]}    goes on with the data of the file before it
 *   {"symlink": NAME, "at", "mtime", "to": TARGET}
 *   {"link": NAME, "at", "first": N}                   another name of the file that says "link": N further up
 *
 * An entry says how deep it lies (0: in the namespace's own directory) and not its path, which may be of any length.
 * LENGTH bytes from OFFSET of a blob's content lie at POSITION of the file; what no data covers is a hole. NAME and
 * TARGET are text, or {"base64": …} when they are not UTF-8. `ctime` and `inode` say when a file need not be read again
 * on this host, and `hash` (of a small file) finds equal content.
 *
 * Blobs of entries end where the lines say so, not at a fixed size, so that the manifests of two snapshots share them.
 */

export interface ManifestRef {
  readonly blobs: readonly BlobId[];
}

export const manifestRef = z.strictObject({
  blobs: z.array(z.custom<BlobId>((id) => typeof id === "string" && BLOB_ID.test(id))).min(1),
}) satisfies z.ZodType<ManifestRef>;

/** What a run's worktree was made from, as its row has it. */
export const runBase = z.strictObject({
  from: z.enum(["namespace", "snapshot", "empty"]),
  /** null when it began empty. */
  manifest: manifestRef.nullable(),
});

export type Extent = readonly [position: number, blob: BlobId, offset: number, length: number];

interface Named {
  readonly depth: number;
  readonly name: Uint8Array;
}

export interface DirectoryEntry extends Named {
  readonly type: "dir";
  readonly mode: number;
  readonly mtime: Time;
}

export interface FileEntry extends Named {
  readonly type: "file";
  readonly mode: number;
  readonly mtime: Time;
  readonly size: number;
  /** Its data, in the order of positions; more may follow in entries of type "more". */
  readonly data: readonly Extent[];
  readonly ctime: Time;
  /** Exact up to 2^53. */
  readonly inode: number;
  /** The start of the keyed hash of a small file's content. */
  readonly hash?: string;
  /** Set when it has more names: what the entries of type "link" call it. Counts up from 0. */
  readonly link?: number;
}

export interface MoreEntry {
  readonly type: "more";
  readonly data: readonly Extent[];
}

export interface SymlinkEntry extends Named {
  readonly type: "symlink";
  readonly mtime: Time;
  readonly target: Uint8Array;
}

export interface LinkEntry extends Named {
  readonly type: "link";
  readonly first: number;
}

export type Entry = DirectoryEntry | FileEntry | MoreEntry | SymlinkEntry | LinkEntry;

/** An entry, or its line, for who goes over many that stay as they are. */
export type Row = Entry | string;

const time = z.tuple([z.int(), z.int()]).readonly();

const headSchema = z.strictObject({
  format: z.literal("cofferdam manifest 1"),
  /** Milliseconds since 1970, from before anything was looked at. */
  started: z.int(),
  /** The namespace's own directory. */
  root: z.strictObject({ mode: z.int(), mtime: time }),
  /** Of type "file" and "link". */
  files: z.int(),
  /** Of the files' contents, each file once. */
  bytes: z.int(),
  /** FIFOs, sockets and devices, which are left out. */
  skipped: z.int(),
  /** Bundles of which little is in use: the next snapshot packs what is in them anew. */
  repack: z.array(z.custom<BlobId>((id) => typeof id === "string" && BLOB_ID.test(id))),
});

export type Head = Omit<z.infer<typeof headSchema>, "format">;

/** A line with more would make a blob too large. */
export const MAX_EXTENTS = 1000;

/** Text of one blob: at least this much before a line may end it, and never much more than that. */
const MIN_CHUNK = 512 * 1024;
const MAX_CHUNK = 2 * 1024 * 1024;
/** One line in so many ends a blob. */
const CUT_MASK = 0x7ff;
const PUTS_AT_ONCE = 4;
const GETS_AHEAD = 3;

export interface ManifestWriter {
  /** In the manifest's order, each as itself or as its line. Await what it returns, if anything, before the next. */
  add(row: Row): Promise<void> | undefined;
  /** All of it is durable when this resolves. */
  finish(head: Head): Promise<{ readonly ref: ManifestRef; readonly storedBytes: number }>;
}

export function createManifestWriter(blobs: Pick<SealedBlobs, "put">): ManifestWriter {
  const flow = createFlow(PUTS_AT_ONCE);
  const ids: BlobId[] = [];
  let lines: string[] = [];
  let length = 0;
  let storedBytes = 0;

  function put(text: string, index: number): Promise<void> | undefined {
    return flow.start(async () => {
      const stored = await blobs.put(Buffer.from(text));
      ids[index] = stored.id;
      storedBytes += stored.storedBytes;
    });
  }

  function cut(): Promise<void> | undefined {
    const text = `${lines.join("\n")}\n`;
    const index = (chunks += 1);
    lines = [];
    length = 0;
    return put(text, index);
  }
  /** The head comes last and stands first. */
  let chunks = 0;

  return {
    add(row) {
      const line = typeof row === "string" ? row : encodeEntry(row);
      lines.push(line);
      length += line.length + 1;
      if (length < MIN_CHUNK) return undefined;
      const ends = (Bun.hash.crc32(line) & CUT_MASK) === 0;
      return ends || length >= MAX_CHUNK ? cut() : undefined;
    },

    async finish(head) {
      if (lines.length > 0) await cut();
      await put(JSON.stringify({ format: "cofferdam manifest 1", ...head }), 0);
      await flow.end();
      return { ref: { blobs: ids }, storedBytes };
    },
  };
}

export async function readHead(blobs: Pick<SealedBlobs, "get">, ref: ManifestRef): Promise<Head> {
  const { format: _, ...head } = headSchema.parse(
    JSON.parse(Buffer.from(await blobs.get(headOf(ref))).toString()),
  );
  return head;
}

function headOf(ref: ManifestRef): BlobId {
  const [head] = ref.blobs;
  if (head === undefined) throw damagedManifest("it has no head");
  return head;
}

/**
 * The entries in batches (what one blob held), with a few blobs fetched ahead. What it yields can be relied on: names
 * are one component each, and every entry lies in the directory that came last at the depth above.
 */
export async function* decodeManifest(
  blobs: Pick<SealedBlobs, "get">,
  ref: ManifestRef,
): AsyncGenerator<readonly Entry[], void> {
  const order = createOrder();
  for await (const lines of readLines(blobs, ref)) {
    const entries = lines.map(decodeEntry);
    entries.forEach(order);
    yield entries;
  }
}

/** What all that it says of files' data comes to: what their holes don't take. */
export async function dataBytesOf(
  blobs: Pick<SealedBlobs, "get">,
  ref: ManifestRef,
  pause: () => Promise<void>,
): Promise<number> {
  let bytes = 0;
  for await (const entries of decodeManifest(blobs, ref)) {
    for (const entry of entries)
      if ("data" in entry) for (const [, , , length] of entry.data) bytes += length;
    await pause();
  }
  return bytes;
}

/** The same as lines, which decodeEntry takes. Nothing about them is checked. */
export async function* readLines(
  blobs: Pick<SealedBlobs, "get">,
  ref: ManifestRef,
): AsyncGenerator<readonly string[], void> {
  const chunks = ref.blobs.slice(1);
  const coming: Promise<Uint8Array>[] = [];
  for (let next = 0; next < chunks.length || coming.length > 0;) {
    for (; coming.length < GETS_AHEAD && next < chunks.length; next++) {
      const id = chunks[next];
      if (id === undefined) break;
      const content = blobs.get(id);
      // Whoever awaits it gets the error; it may be that nobody does any more.
      content.catch(() => {});
      coming.push(content);
    }
    const content = await coming.shift();
    if (content === undefined) return;
    const text = Buffer.from(content.buffer, content.byteOffset, content.length).toString();
    yield text.slice(0, -1).split("\n");
  }
}

/** Follows the entries of a manifest, to say where each lies. */
export function createPath() {
  const names: Uint8Array[] = [];
  /** Of the path to each of them. */
  const lengths: number[] = [];

  const path = {
    /** Goes on to an entry; "more" is the file before it. How long its path is: it may be megabytes, for each entry. */
    enter(entry: Entry): number {
      if (entry.type !== "more") {
        const { depth, name } = entry;
        names.splice(depth, Infinity, name);
        const above = lengths[depth - 1];
        lengths.splice(depth, Infinity, (above === undefined ? 0 : above + 1) + name.length);
      }
      return lengths.at(-1) ?? 0;
    },

    /** The path of the entry that was entered last, without a slash at its start. */
    bytes(): Buffer {
      return Buffer.concat(names.flatMap((name, index) => (index === 0 ? [name] : [SLASH, name])));
    },

    of(entry: Entry): Buffer {
      path.enter(entry);
      return path.bytes();
    },
  };
  return path;
}

const SLASH = Buffer.from("/");

/** Throws for an entry that can't stand where it does. */
function createOrder() {
  let last: Entry["type"] | undefined;
  /** Of the directory that the next entry may lie in. */
  let deepest = 0;
  return (entry: Entry): void => {
    if (entry.type === "more") {
      if (last !== "file" && last !== "more") throw damagedManifest("data of no file");
    } else {
      if (!(entry.depth >= 0 && entry.depth <= deepest)) throw damagedManifest("an entry in no directory");
      deepest = entry.type === "dir" ? entry.depth + 1 : entry.depth;
    }
    last = entry.type;
  };
}

/** An entry as a line of JSON, without the line's end. */
export function encodeEntry(entry: Entry): string {
  if (entry.type !== "file") return JSON.stringify(encoded(entry));
  const { data, hash } = entry;
  const end = hash === undefined ? "}" : `,"hash":"${hash}"}`;
  return `${startOfFile(nameJson(entry.name), entry)},"data":${JSON.stringify(data)}${end}`;
}

/** What the lines of a directory begin with: its name (from nameJson) and place. */
export function startOfDirectory(name: string, depth: number): string {
  return `{"dir":${name},"at":${depth},`;
}

/** What the line of a file begins with: all that tells whether it is the same as before. Its data follows. */
export function startOfFile(
  name: string,
  file: Pick<FileEntry, "depth" | "link" | "mode" | "mtime" | "size" | "ctime" | "inode">,
): string {
  const { depth, link, mode, mtime, size, ctime, inode } = file;
  const linked = link === undefined ? "" : `"link":${link},`;
  const times = `"mtime":[${mtime[0]},${mtime[1]}],"ctime":[${ctime[0]},${ctime[1]}]`;
  return `{"file":${name},"at":${depth},${linked}"mode":${mode},"size":${size},${times},"inode":${inode}`;
}

/** The hash of the content, and in which bundle it lies, of a file's line; null for all other lines. */
export function bundledIn(line: string): { hash: string; blob: BlobId; length: number } | null {
  const found = line.startsWith('{"file"') ? BUNDLED.exec(line.slice(-BUNDLED_LENGTH)) : null;
  if (found === null) return null;
  const [, blob = "", length = "", hash = ""] = found;
  return { hash, blob: blob as BlobId, length: Number(length) };
}

/** At the end of a line, which may be long. */
const BUNDLED_LENGTH = 180;
const BUNDLED = /,"data":\[\[0,"([0-9a-f]{64})",\d+,(\d+)\]\],"hash":"([0-9a-f]{32})"\}$/;

/** Of what `encodeEntry` made: it is believed to have that form, and only what could do harm is looked at. */
export function decodeEntry(line: string): Entry {
  return decoded(JSON.parse(line) as Line);
}

type Text = string | { readonly base64: string };

type Line =
  | { dir: Text; at: number; mode: number; mtime: Time }
  | {
      file: Text;
      at: number;
      mode: number;
      mtime: Time;
      size: number;
      data: readonly Extent[];
      ctime: Time;
      inode: number;
      hash?: string;
      link?: number;
    }
  | { more: readonly Extent[] }
  | { symlink: Text; at: number; mtime: Time; to: Text }
  | { link: Text; at: number; first: number };

function encoded(entry: Exclude<Entry, FileEntry>): Line {
  switch (entry.type) {
    case "dir":
      return { dir: textOf(entry.name), at: entry.depth, mode: entry.mode, mtime: entry.mtime };
    case "more":
      return { more: entry.data };
    case "symlink":
      return { symlink: textOf(entry.name), at: entry.depth, mtime: entry.mtime, to: textOf(entry.target) };
    case "link":
      return { link: textOf(entry.name), at: entry.depth, first: entry.first };
    default:
      return entry satisfies never;
  }
}

function decoded(line: Line): Entry {
  if ("file" in line) {
    const { file, at, ...rest } = line;
    return { type: "file", depth: at, name: nameOf(file), ...rest };
  }
  if ("dir" in line) {
    return { type: "dir", depth: line.at, name: nameOf(line.dir), mode: line.mode, mtime: line.mtime };
  }
  if ("more" in line) return { type: "more", data: line.more };
  if ("symlink" in line) {
    const { symlink, at, mtime, to } = line;
    return { type: "symlink", depth: at, name: nameOf(symlink), mtime, target: bytesOf(to) };
  }
  if ("link" in line) return { type: "link", depth: line.at, name: nameOf(line.link), first: line.first };
  throw damagedManifest("an entry of no known type");
}

/** A name as it stands in a line. */
export function nameJson(name: Uint8Array): string {
  return JSON.stringify(textOf(name));
}

function textOf(bytes: Uint8Array): Text {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  return isUtf8(buffer) ? buffer.toString() : { base64: buffer.toString("base64") };
}

function bytesOf(text: Text): Uint8Array {
  return typeof text === "string" ? Buffer.from(text) : Buffer.from(text.base64, "base64");
}

function nameOf(text: Text): Uint8Array {
  const name = bytesOf(text);
  const dots = name.length <= 2 && name.every((byte) => byte === 0x2e);
  if (dots || name.length > 255 || name.includes(0x2f) || name.includes(0)) {
    throw damagedManifest("a name that no file has");
  }
  return name;
}

export function damagedManifest(what: string): AppError {
  return new AppError("internal", `A snapshot's manifest is damaged: ${what}.`);
}

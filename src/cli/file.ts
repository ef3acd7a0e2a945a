import { basename } from "node:path";
import { defineCommand } from "citty";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { parsePath } from "../volumes/path.ts";
import { connect, type Appliance, type Call } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, shortSize, shortTime, table, writeBytes } from "./output.ts";
import { strict } from "./strict.ts";
import { terminal } from "./terminal.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

const namespace = { namespace: { type: "positional", description: "Whose files", required: true } } as const;
const path = { path: { type: "positional", description: "As workspace/dir/file", required: true } } as const;
const common = { ...workspaceArgument, ...dataArgument };

interface FileArgs {
  readonly namespace: string;
  readonly data: string;
  readonly workspace?: string | undefined;
}

async function open(args: FileArgs): Promise<{ appliance: Appliance; headers: Record<string, string> }> {
  const appliance = connect(args.data);
  const workspace = await workspaceOf(appliance, args.workspace);
  return { appliance, headers: { "x-workspace": workspace, "x-namespace": args.namespace } };
}

/** Checked here already, since fetch would take `..` away before the api could refuse it. */
function url(text: string): string {
  return `/files/${parsePath(text).names.map(encodeURIComponent).join("/")}`;
}

async function download(args: FileArgs & { readonly path: string }): Promise<Response> {
  const { appliance, headers } = await open(args);
  const response = await appliance.call(url(args.path), { headers });
  if (response.headers.get("x-trove-truncated") === "1") {
    throw new AppError(
      "too_large",
      `${args.path} has more bytes than the api sends; use exec to cut it in parts.`,
    );
  }
  return response;
}

const ls = defineCommand({
  meta: { name: "ls", description: "What is in a directory" },
  plugins: [strict],
  args: {
    ...namespace,
    path: { type: "positional", description: "As workspace/dir", required: false, default: "workspace" },
    recursive: { type: "boolean", alias: "r", description: "And in those below it" },
    ...common,
    ...jsonArgument,
  },
  async run({ args }) {
    const { appliance, headers } = await open(args);
    const query = new URLSearchParams({ path: args.path, recursive: String(args.recursive ?? false) });
    const answer = await appliance.ask(listing, `/v1/files?${query.toString()}`, { headers });
    print(args.json, answer, () =>
      table(
        answer.entries.map((entry) => ({
          path: entry.is_dir ? `${entry.path}/` : entry.path,
          size: entry.size_bytes === null ? "" : shortSize(entry.size_bytes),
          modified: shortTime(entry.modified_at),
        })),
        "Nothing is there.",
      ),
    );
    if (answer.truncated) terminal.warn("there is more; name a directory further down.");
  },
});

const listing = z.object({
  entries: z.array(
    z.object({
      name: z.string(),
      path: z.string(),
      is_dir: z.boolean(),
      size_bytes: z.number().nullable(),
      modified_at: z.string(),
    }),
  ),
  truncated: z.boolean(),
});

const cat = defineCommand({
  meta: { name: "cat", description: "A file's bytes on stdout" },
  plugins: [strict],
  args: { ...namespace, ...path, ...common },
  async run({ args }) {
    const { body } = await download(args);
    for await (const chunk of body ?? []) await writeBytes(process.stdout, chunk);
  },
});

const get = defineCommand({
  meta: { name: "get", description: "Copy a file to here" },
  plugins: [strict],
  args: {
    ...namespace,
    ...path,
    to: { type: "positional", description: "Default: its own name", required: false, valueHint: "FILE" },
    ...common,
    ...jsonArgument,
  },
  async run({ args }) {
    const to = args.to ?? basename(args.path);
    const response = await download(args);
    const size = await local(to, async () => Bun.write(to, response, { createPath: false }));
    print(args.json, { path: to, size_bytes: size }, () => `${to}: ${shortSize(size)}`);
  },
});

const put = defineCommand({
  meta: { name: "put", description: "Copy a file, or stdin, into the namespace" },
  plugins: [strict],
  args: {
    ...namespace,
    ...path,
    from: { type: "positional", description: "Default: stdin", required: false, valueHint: "FILE" },
    ...common,
    ...jsonArgument,
  },
  async run({ args }) {
    const { from } = args;
    const target = url(args.path);
    const body: Call["body"] = from === undefined || from === "-" ? Bun.stdin.stream() : await readable(from);
    const { appliance, headers } = await open(args);
    const written = z.object({ path: z.string(), size_bytes: z.number() });
    const answer = await appliance.ask(written, target, { method: "PUT", headers, body });
    print(args.json, answer, () => `${answer.path}: ${shortSize(answer.size_bytes)}`);
  },
});

const rm = defineCommand({
  meta: { name: "rm", description: "Delete a file, or a directory with all in it" },
  plugins: [strict],
  args: { ...namespace, ...path, ...common, ...jsonArgument },
  async run({ args }) {
    const { appliance, headers } = await open(args);
    const call = { method: "POST", headers, json: { path: args.path } } as const;
    const answer = await appliance.ask(z.object({ deleted: z.string() }), "/delete", call);
    print(args.json, answer, () => `${answer.deleted} is deleted.`);
  },
});

async function readable(file: string): Promise<Blob> {
  return local(file, async () => {
    const blob = Bun.file(file);
    if (!(await blob.stat()).isFile()) throw new AppError("bad_input", `${file} is no file.`);
    return blob;
  });
}

async function local<T>(file: string, use: () => Promise<T>): Promise<T> {
  try {
    return await use();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (error instanceof AppError || code === undefined) throw error;
    const why = WHY[code] ?? `it fails with ${code}`;
    throw new AppError("bad_input", `${file} cannot be used here: ${why}.`, { cause: error });
  }
}

const WHY: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file or directory",
  EACCES: "you may not",
  EISDIR: "it is a directory",
  ENOTDIR: "something on the way to it is not a directory",
  ENOSPC: "the disk is full",
  EROFS: "its file system is read-only",
};

export const file = defineCommand({
  meta: { name: "file", description: "The files of a namespace" },
  subCommands: { ls, cat, get, put, rm },
});

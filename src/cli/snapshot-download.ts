import { open, rename, rm } from "node:fs/promises";
import { defineCommand } from "citty";
import { AppError } from "../errors.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, shortSize, writeBytes } from "./output.ts";
import { strict } from "./strict.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

export const download = defineCommand({
  meta: { name: "download", description: "Copy a snapshot to here, as a tar.gz" },
  plugins: [strict],
  args: {
    namespace: { type: "positional", description: "Whose files", required: true },
    snapshot: { type: "positional", description: "Its id, snap-…", required: true },
    to: {
      type: "positional",
      description: "Default: NAMESPACE-SNAPSHOT.tar.gz; - is stdout",
      required: false,
      valueHint: "FILE",
    },
    ...workspaceArgument,
    ...dataArgument,
    ...jsonArgument,
  },
  async run({ args }) {
    const appliance = connect(args.data);
    const workspace = await workspaceOf(appliance, args.workspace);
    const headers = { "x-workspace": workspace, "x-namespace": args.namespace };
    const path = `/v1/snapshots/${encodeURIComponent(args.snapshot)}/download`;
    const { body } = await appliance.call(path, { headers });
    if (args.to === "-") {
      for await (const chunk of body ?? []) await writeBytes(process.stdout, chunk);
      return;
    }
    const to = args.to ?? `${args.namespace}-${args.snapshot}.tar.gz`;
    const size = await save(body, to);
    print(args.json, { path: to, size_bytes: size }, () => `${to}: ${shortSize(size)}`);
  },
});

/** The file appears when it is whole. */
async function save(body: ReadableStream<Uint8Array> | null, to: string): Promise<number> {
  const part = `${to}.part`;
  try {
    const file = await open(part, "w", 0o600);
    let size = 0;
    try {
      for await (const chunk of body ?? []) {
        await file.write(chunk);
        size += chunk.length;
      }
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(part, to);
    return size;
  } catch (error) {
    await rm(part, { force: true });
    const { code } = error as NodeJS.ErrnoException;
    if (code?.startsWith("E") === true && !code.startsWith("ECONN"))
      throw new AppError("bad_input", `${to} cannot be written (${code}).`, { cause: error });
    throw new AppError("unavailable", "The appliance broke off the download; its log says why.", {
      cause: error,
    });
  }
}

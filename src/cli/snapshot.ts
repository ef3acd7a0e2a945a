import { defineCommand } from "citty";
import { z } from "zod";
import { connect, type Appliance } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { counted, jsonArgument, print, shortSize, shortTime, table } from "./output.ts";
import { download } from "./snapshot-download.ts";
import { verify } from "./snapshot-verify.ts";
import { strict } from "./strict.ts";
import { confirm, yesArgument } from "./terminal.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

const namespace = { namespace: { type: "positional", description: "Whose files", required: true } } as const;
const snapshotArgument = {
  snapshot: { type: "positional", description: "Its id, snap-…", required: true },
} as const;
const common = { ...workspaceArgument, ...dataArgument, ...jsonArgument };

const snapshotRow = z.object({
  snapshot_id: z.string(),
  namespace: z.string(),
  label: z.string().nullable(),
  size_bytes: z.number(),
  stored_bytes: z.number(),
  file_count: z.number(),
  skipped: z.number(),
  created_at: z.string(),
});

interface Args {
  readonly namespace: string;
  readonly data: string;
  readonly workspace?: string | undefined;
}

async function open(args: Args): Promise<{ appliance: Appliance; headers: Record<string, string> }> {
  const appliance = connect(args.data);
  const workspace = await workspaceOf(appliance, args.workspace);
  return { appliance, headers: { "x-workspace": workspace, "x-namespace": args.namespace } };
}

const create = defineCommand({
  meta: { name: "create", description: "Keep the files as they are now" },
  plugins: [strict],
  args: {
    ...namespace,
    label: { type: "string", description: "What people call it", valueHint: "TEXT" },
    ...common,
  },
  async run({ args }) {
    const { appliance, headers } = await open(args);
    const json = { label: args.label ?? null };
    const made = await appliance.ask(snapshotRow, "/v1/snapshots", { method: "POST", headers, json });
    print(args.json, made, () => {
      const left = made.skipped === 0 ? "" : `, ${made.skipped} sockets, FIFOs or devices left out`;
      return `${made.snapshot_id}: ${counted(made.file_count, "file")}, ${shortSize(made.size_bytes)}${left}; ${shortSize(made.stored_bytes)} new in the store`;
    });
  },
});

const list = defineCommand({
  meta: { name: "list", description: "The snapshots of a namespace, newest first" },
  plugins: [strict],
  args: { ...namespace, ...common },
  async run({ args }) {
    const { appliance, headers } = await open(args);
    const answer = await appliance.ask(z.object({ snapshots: z.array(snapshotRow) }), "/v1/snapshots", {
      headers,
    });
    print(args.json, answer, () =>
      table(
        answer.snapshots.map((row) => ({
          snapshot: row.snapshot_id,
          created: shortTime(row.created_at),
          files: String(row.file_count),
          size: shortSize(row.size_bytes),
          stored: shortSize(row.stored_bytes),
          label: row.label ?? "",
        })),
        "The namespace has no snapshot; make one with: cofferdam snapshot create NAMESPACE",
      ),
    );
  },
});

const restore = defineCommand({
  meta: { name: "restore", description: "Put the files back as they were; what came since is gone" },
  plugins: [strict],
  args: { ...namespace, ...snapshotArgument, ...yesArgument, ...common },
  async run({ args }) {
    const { appliance, headers } = await open(args);
    await confirm(
      `Replace all files of "${args.namespace}" by those of ${args.snapshot}, and end what runs there?`,
      args.yes,
    );
    const path = `/v1/snapshots/${encodeURIComponent(args.snapshot)}/restore`;
    const answer = await appliance.ask(z.object({ files_restored: z.number() }), path, {
      method: "POST",
      headers,
    });
    print(
      args.json,
      answer,
      () =>
        `${counted(answer.files_restored, "file")} ${answer.files_restored === 1 ? "is" : "are"} restored.`,
    );
  },
});

const remove = defineCommand({
  meta: { name: "delete", description: "Delete a snapshot; the files stay" },
  plugins: [strict],
  args: { ...namespace, ...snapshotArgument, ...common },
  async run({ args }) {
    const { appliance, headers } = await open(args);
    const path = `/v1/snapshots/${encodeURIComponent(args.snapshot)}`;
    const answer = await appliance.ask(z.object({ deleted: z.string() }), path, {
      method: "DELETE",
      headers,
    });
    print(args.json, answer, () => `${answer.deleted} is deleted.`);
  },
});

export const snapshot = defineCommand({
  meta: { name: "snapshot", description: "Snapshots: a namespace's files as they were" },
  subCommands: { create, list, restore, delete: remove, download, verify },
});

import { defineCommand } from "citty";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, shortSize } from "./output.ts";
import { strict } from "./strict.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

const verifiedSnapshot = z.object({
  snapshot_id: z.string(),
  workspace_id: z.string(),
  namespace: z.string(),
  label: z.string().nullable(),
  blobs: z.number(),
  bytes: z.number(),
  damage: z.array(
    z.object({
      blob: z.string(),
      reason: z.string(),
      paths: z.array(z.string()),
      more: z.number(),
      list: z.boolean(),
    }),
  ),
});
type VerifiedSnapshot = z.infer<typeof verifiedSnapshot>;
const line = z.union([verifiedSnapshot, z.object({ verified: z.number() })]);

export const verify = defineCommand({
  meta: {
    name: "verify",
    description: "Read all that snapshots need, and say what is damaged; exits 1 when something is",
  },
  plugins: [strict],
  args: {
    namespace: { type: "positional", description: "Default: every namespace", required: false },
    snapshot: { type: "positional", description: "Default: all of them", required: false },
    ...workspaceArgument,
    ...dataArgument,
    ...jsonArgument,
  },
  async run({ args }) {
    const appliance = connect(args.data);
    const query = new URLSearchParams();
    if (args.namespace !== undefined || args.workspace !== undefined)
      query.set("workspace", await workspaceOf(appliance, args.workspace));
    if (args.namespace !== undefined) query.set("namespace", args.namespace);
    if (args.snapshot !== undefined) query.set("snapshot", args.snapshot);
    const { body } = await appliance.call(`/admin/snapshots/verify?${query.toString()}`);
    const total = { snapshots: 0, bytes: 0, damaged: 0, whole: false };
    for await (const text of linesOf(body)) {
      const found = line.parse(JSON.parse(text));
      if ("verified" in found) {
        total.whole = true;
        continue;
      }
      total.snapshots += 1;
      total.bytes += found.bytes;
      total.damaged += Number(found.damage.length > 0);
      if (args.json === true || found.damage.length > 0) print(args.json, found, () => shown(found));
    }
    if (!total.whole)
      throw new AppError("unavailable", "The appliance broke off before all was read; its log says why.");
    if (args.snapshot !== undefined && total.snapshots === 0)
      throw new AppError("not_found", `The namespace has no snapshot ${JSON.stringify(args.snapshot)}.`);
    const { snapshots, bytes, damaged } = total;
    if (args.json !== true)
      print(false, null, () => `Snapshots read: ${snapshots} (${shortSize(bytes)}). Damaged: ${damaged}.`);
    if (damaged > 0) process.exitCode = 1;
  },
});

function shown({ snapshot_id, namespace, label, damage }: VerifiedSnapshot): string {
  const name = `${snapshot_id} of ${namespace}${label === null ? "" : ` (${label})`}`;
  const lines = damage.flatMap(({ blob, reason, paths, more, list }) => [
    `  blob ${blob}: ${reason}`,
    ...(list ? ["    a part of its list of files: nothing of it can be restored"] : []),
    ...paths.map((path) => `    ${JSON.stringify(path)}`),
    ...(more === 0 ? [] : [`    and ${more} more files`]),
  ]);
  return [`${name} is damaged:`, ...lines].join("\n");
}

async function* linesOf(body: ReadableStream<Uint8Array> | null): AsyncGenerator<string, void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of body ?? []) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
}

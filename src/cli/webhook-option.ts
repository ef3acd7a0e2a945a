import { connect, type Appliance } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument } from "./output.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

/** What every command about webhooks takes. */
export const webhookArguments = { ...workspaceArgument, ...dataArgument, ...jsonArgument };

export const idArgument = {
  id: { type: "positional", description: "Its id, wh-…", required: true, valueHint: "WEBHOOK" },
} as const;

/** Where the webhooks of the workspace that was named are, or the one that was. */
export async function webhooksOf(
  args: { readonly data: string; readonly workspace?: string | undefined },
  id?: string,
): Promise<{ appliance: Appliance; path: string }> {
  const appliance = connect(args.data);
  const path = `/v1/workspaces/${await workspaceOf(appliance, args.workspace)}/webhooks`;
  return { appliance, path: id === undefined ? path : `${path}/${encodeURIComponent(id)}` };
}

import { AppError } from "../errors.ts";
import type { Appliance } from "./appliance.ts";
import { sinceOf } from "./since.ts";
import { workspaceOf } from "./workspace-option.ts";

/** What chooses events. */
export const choiceArguments = {
  since: {
    type: "string",
    description: "Only what came after: a time ago, as 5m or 1h30m, or a time in ISO 8601",
    valueHint: "WHEN",
  },
  types: {
    type: "string",
    description: "Only these, parted by commas, as file.written,exec.completed",
    valueHint: "TYPES",
  },
  namespace: { type: "string", description: "Only of this namespace", valueHint: "NAME" },
  appliance: { type: "boolean", description: "What belongs to no workspace, instead of a workspace's" },
} as const;

interface Choice {
  readonly since?: string | undefined;
  readonly types?: string | undefined;
  readonly namespace?: string | undefined;
  readonly appliance?: boolean | undefined;
  readonly workspace?: string | undefined;
}

export function queryOf({ since, types, namespace }: Choice): URLSearchParams {
  const query = new URLSearchParams();
  if (since !== undefined) query.set("since", sinceOf(since, Date.now()));
  if (types !== undefined) query.set("types", types);
  if (namespace !== undefined) query.set("namespace", namespace);
  return query;
}

/** Where the api has them: a page, and a stream. */
export async function sourceOf(
  appliance: Appliance,
  choice: Choice,
): Promise<{ list: string; stream: string }> {
  if (choice.appliance !== true) {
    const workspace = `/v1/workspaces/${await workspaceOf(appliance, choice.workspace)}`;
    return { list: `${workspace}/events`, stream: `${workspace}/webhooks/stream` };
  }
  if (choice.workspace !== undefined || choice.namespace !== undefined) {
    throw new AppError("bad_input", "--appliance is for what belongs to no workspace and no namespace.");
  }
  return { list: "/admin/events", stream: "/admin/events/stream" };
}

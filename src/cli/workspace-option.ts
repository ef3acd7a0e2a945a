import { z } from "zod";
import { AppError } from "../errors.ts";
import type { Appliance } from "./appliance.ts";

export const workspaceArgument = {
  workspace: {
    type: "string",
    description: "Which workspace, by id or name; needed when there are several",
    valueHint: "WS",
  },
} as const;

export const workspaceList = z.object({
  workspaces: z.array(z.object({ workspace_id: z.string(), name: z.string(), created_at: z.string() })),
});

/** The operator's own, which `prove` and `evidence` make for the runs that they try: nobody's default. */
const OWN = /^cofferdam /;

/** The id of the workspace that was named, or of the only one. */
export async function workspaceOf(appliance: Appliance, named: string | undefined): Promise<string> {
  const { workspaces } = await appliance.ask(workspaceList, "/admin/workspaces");
  const found =
    named === undefined
      ? workspaces.filter(({ name }) => !OWN.test(name))
      : workspaces.filter(({ workspace_id, name }) => workspace_id === named || name === named);
  const [first, second] = found;
  if (first !== undefined && second === undefined) return first.workspace_id;
  const choice = workspaces.map(({ workspace_id, name }) => `${workspace_id} (${name})`).join(", ");
  if (first !== undefined) {
    throw new AppError("bad_input", `There are several workspaces; say which with --workspace: ${choice}.`);
  }
  throw named === undefined
    ? new AppError("not_found", "There is no workspace yet; make one with: cofferdam workspace create NAME")
    : new AppError("not_found", `There is no workspace "${named}"; there are ${choice || "none"}.`);
}

import { randomBytes } from "node:crypto";
import { z } from "zod";
import type { Config } from "../config/schema.ts";
import type { Appliance, Place } from "./appliance.ts";

const NAME = "cofferdam prove";
const workspaces = z.object({
  workspaces: z.array(z.object({ workspace_id: z.string(), name: z.string() })),
});
const namespaces = z.object({ namespaces: z.array(z.object({ namespace: z.string() })) });

/** Finds the proofs' workspace, or makes it, and removes what a proof that was killed has left in it. */
export async function openPlace(appliance: Appliance, config: Config): Promise<Place> {
  const { workspaces: all } = await appliance.ask(workspaces, "/admin/workspaces");
  const made = z.object({ workspace_id: z.string() });
  const workspace =
    all.find(({ name }) => name === NAME)?.workspace_id ??
    (await appliance.ask(made, "/admin/workspaces", { method: "POST", json: { name: NAME } })).workspace_id;
  const place = { appliance, config, workspace, tag: `probe-${randomBytes(6).toString("hex")}` };
  await clearPlace(place);
  return place;
}

/** Removes all namespaces of the proofs' workspace, and their runs with them. */
export async function clearPlace({
  appliance,
  workspace,
}: Pick<Place, "appliance" | "workspace">): Promise<void> {
  const { namespaces: left } = await appliance.ask(namespaces, `/v1/workspaces/${workspace}/namespaces`);
  for (const { namespace } of left) {
    const path = `/v1/workspaces/${workspace}/namespaces/${namespace}`;
    await appliance.ask(z.unknown(), path, { method: "DELETE" });
  }
}

import { randomBytes } from "node:crypto";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import type { Config } from "../config/schema.ts";
import type { Appliance, Place } from "./appliance.ts";

const NAME = "cofferdam prove";
const workspaces = z.object({
  workspaces: z.array(z.object({ workspace_id: z.string(), name: z.string() })),
});
const credentials = z.object({ credentials: z.array(z.object({ credential_id: z.string() })) });
const namespaces = z.object({ namespaces: z.array(z.object({ namespace: z.string() })) });

/** Finds the proofs' workspace, or makes it, and removes what a proof that was killed has left. */
export async function openPlace(appliance: Appliance, config: Config): Promise<Place> {
  const workspace = await workspaceNamed(appliance, NAME);
  const place = { appliance, config, workspace, tag: `probe-${randomBytes(6).toString("hex")}` };
  await clearPlace(place);
  return place;
}

type Owned = Pick<Place, "appliance" | "workspace">;

/** The operator's own, by its name; made where there is none. */
export async function workspaceNamed(appliance: Appliance, name: string): Promise<string> {
  const { workspaces: all } = await appliance.ask(workspaces, "/admin/workspaces");
  const found = all.find((one) => one.name === name);
  if (found !== undefined) return found.workspace_id;
  const made = z.object({ workspace_id: z.string() });
  return (await appliance.ask(made, "/admin/workspaces", { method: "POST", json: { name } })).workspace_id;
}

/** Removes all namespaces of the proofs' workspace, their runs with them, all credentials, and files beside the data. */
export async function clearPlace(place: Owned): Promise<void> {
  const { appliance, workspace } = place;
  const { namespaces: left } = await appliance.ask(namespaces, `/v1/workspaces/${workspace}/namespaces`);
  for (const { namespace } of left) await removeNamespace(place, namespace);
  const of = `/v1/workspaces/${workspace}/credentials`;
  const { credentials: kept } = await appliance.ask(credentials, of);
  for (const { credential_id: id } of kept)
    await appliance.ask(z.unknown(), `${of}/${id}`, { method: "DELETE" });
  const { data } = appliance.instance;
  for (const name of readdirSync(data))
    if (/^probe-[0-9a-f]{12}\.(txt|planted)$/.test(name)) rmSync(join(data, name), { force: true });
}

export async function removeNamespace({ appliance, workspace }: Owned, namespace: string): Promise<void> {
  const path = `/v1/workspaces/${workspace}/namespaces/${namespace}`;
  await appliance.ask(z.unknown(), path, { method: "DELETE" });
}

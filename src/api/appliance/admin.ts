import { Elysia } from "elysia";
import { z } from "zod";
import type { Setting } from "../../config/settings.ts";
import type { Setup } from "../../keys/setup.ts";
import type { Workspace, Workspaces } from "../../keys/workspaces.ts";
import type { Check } from "../../protocol/sandboxd.ts";
import type { Access } from "../auth.ts";
import { label, readJson } from "../http/body.ts";
import type { Status } from "./status.ts";
import { timestamp } from "../http/time.ts";

interface AdminRoutesParts {
  readonly access: Access;
  readonly workspaces: Workspaces;
  readonly setup: Setup;
  readonly status: () => Promise<Status>;
  readonly doctor: () => Promise<Check[]>;
  readonly settings: () => Setting[];
}

/** For the operator alone, and so on the admin socket alone. */
export function adminRoutes(parts: AdminRoutesParts) {
  const { access, workspaces, setup, status, doctor, settings } = parts;
  return new Elysia({ prefix: "/admin" })
    .resolve(async ({ request }) => {
      await access.operatorOnly(request);
    })
    .post(
      "/setup",
      async ({ request }) => {
        const made = await setup.begin(access.origin(request));
        if (made === null) return { created: false as const };
        return {
          created: true as const,
          workspace_id: made.workspaceId,
          admin_key: made.adminKey,
          workspace_key: made.workspaceKey,
        };
      },
      { parse: "none" },
    )
    .post(
      "/setup/confirm",
      async ({ request }) => {
        await setup.confirm(access.origin(request));
        return { confirmed: true };
      },
      { parse: "none" },
    )
    .get("/workspaces", async () => ({ workspaces: (await workspaces.list()).map(shown) }))
    .post(
      "/workspaces",
      async ({ request }) => {
        const { name } = await readJson(request, z.strictObject({ name: label }));
        return shown(await workspaces.create(name, access.origin(request)));
      },
      { parse: "none" },
    )
    .get("/status", () => status())
    .get("/config", () => ({ settings: settings() }))
    .get("/doctor", async () => ({ checks: await doctor() }));
}

function shown({ id, name, createdAt }: Workspace) {
  return { workspace_id: id, name, created_at: timestamp(createdAt) };
}

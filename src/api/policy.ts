import { Elysia } from "elysia";
import { policySchema, type Policies } from "../runs/policy.ts";
import type { Access } from "./auth.ts";
import { readJson } from "./http/body.ts";

export interface PolicyRoutesParts {
  readonly access: Pick<Access, "admin" | "origin">;
  readonly policies: Policies;
}

/** What a workspace's runs may be at most: an admin's to set. */
export function policyRoutes({ access, policies }: PolicyRoutesParts) {
  return new Elysia({ prefix: "/v1/workspaces/:ws/policy" })
    .get("", async ({ request, params }) => policies.of(await access.admin(request, params.ws)))
    .put(
      "",
      async ({ request, params }) => {
        const workspaceId = await access.admin(request, params.ws);
        const policy = await readJson(request, policySchema);
        await policies.set(workspaceId, policy, access.origin(request));
        return policy;
      },
      { parse: "none" },
    );
}

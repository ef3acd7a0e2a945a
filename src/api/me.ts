import { Elysia } from "elysia";
import type { Access } from "./auth.ts";

export function meRoutes({ access }: { readonly access: Access }) {
  return new Elysia().get("/v1/me", async ({ request }) => {
    const caller = await access.keyHolder(request);
    return {
      workspace_id: caller.workspaceId,
      key_id: caller.keyId,
      key_name: caller.keyName,
      scope: caller.scope,
      namespace: caller.lockedNamespace,
    };
  });
}

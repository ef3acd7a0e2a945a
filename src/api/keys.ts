import { Elysia } from "elysia";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { keyId, namespaceName } from "../ids.ts";
import type { Key, Keys } from "../keys/keys.ts";
import type { Namespaces } from "../keys/namespaces.ts";
import type { Access } from "./auth.ts";
import { label, readJson } from "./http/body.ts";
import { timestamp } from "./http/time.ts";

/** Strict, since a misspelt "namespace" would open the whole workspace. */
const newKey = z.strictObject({
  name: label,
  namespace: namespaceName.nullish(),
  admin: z.boolean().nullish(),
});

interface KeyRoutesParts {
  readonly access: Access;
  readonly keys: Keys;
  readonly namespaces: Pick<Namespaces, "ensure">;
}

export function keyRoutes({ access, keys, namespaces }: KeyRoutesParts) {
  return new Elysia({ prefix: "/v1/workspaces/:ws/keys" })
    .post(
      "",
      async ({ request, params }) => {
        const workspaceId = await access.admin(request, params.ws);
        const body = await readJson(request, newKey);
        const scope = body.admin === true ? "admin" : "workspace";
        const name = body.namespace ?? null;
        if (scope === "admin" && name !== null) {
          throw new AppError(
            "invalid",
            "An admin key manages the whole workspace; give either admin or namespace.",
          );
        }
        const namespace = name === null ? null : { name, id: await namespaces.ensure(workspaceId, name) };
        const wanted = { workspaceId, name: body.name, scope, namespace } as const;
        const key = await keys.create(wanted, access.origin(request));
        return { ...shown(key), api_key: key.apiKey };
      },
      { parse: "none" },
    )
    .get("", async ({ request, params }) => {
      const workspaceId = await access.admin(request, params.ws);
      return { keys: (await keys.list(workspaceId)).map(shown) };
    })
    .delete(
      "/:id",
      async ({ request, params }) => {
        const workspaceId = await access.admin(request, params.ws);
        const id = keyId.schema.safeParse(params.id);
        if (!id.success || !(await keys.revoke(workspaceId, id.data, access.origin(request)))) {
          throw new AppError("not_found", "The workspace has no such key; it may have been revoked before.");
        }
        return { revoked: id.data };
      },
      { parse: "none" },
    );
}

function shown(key: Key) {
  return {
    key_id: key.id,
    name: key.name,
    prefix: key.prefix,
    scope: key.scope,
    namespace: key.namespace,
    created_at: timestamp(key.createdAt),
    last_used_at: key.lastUsedAt === null ? null : timestamp(key.lastUsedAt),
  };
}

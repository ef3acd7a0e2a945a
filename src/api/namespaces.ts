import { Elysia } from "elysia";
import { AppError } from "../errors.ts";
import type { Namespaces } from "../keys/namespaces.ts";
import type { UsageTable } from "../volumes/usage-table.ts";
import type { Access } from "./auth.ts";
import { timestamp } from "./http/time.ts";

interface NamespaceRoutesParts {
  readonly access: Access;
  readonly namespaces: Pick<Namespaces, "list" | "remove">;
  readonly usage: UsageTable["survey"];
}

export function namespaceRoutes({ access, namespaces, ...parts }: NamespaceRoutesParts) {
  return new Elysia({ prefix: "/v1/workspaces/:ws/namespaces" })
    .get("", async ({ request, params }) => {
      const workspaceId = await access.admin(request, params.ws);
      const all = await namespaces.list(workspaceId);
      const usage = await parts.usage(workspaceId);
      return {
        namespaces: all.map(({ id, name, createdAt, lastUsedAt }) => ({
          namespace: name,
          size_bytes: usage.of(id).bytes,
          file_count: usage.of(id).files,
          created_at: timestamp(createdAt),
          last_used_at: timestamp(lastUsedAt),
        })),
      };
    })
    .delete(
      "/:name",
      async ({ request, params }) => {
        const workspaceId = await access.admin(request, params.ws);
        if (!(await namespaces.remove(workspaceId, params.name, access.origin(request)))) {
          throw new AppError("not_found", `The workspace has no namespace "${params.name}".`);
        }
        return { deleted: params.name };
      },
      { parse: "none" },
    );
}

import { Elysia } from "elysia";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import type { Namespaces } from "../keys/namespaces.ts";
import type { Access } from "./auth.ts";
import { timestamp } from "./http/time.ts";

interface NamespaceRoutesParts {
  readonly access: Access;
  readonly namespaces: Pick<Namespaces, "list" | "remove">;
  /** What its files take; zeros for one without any. */
  readonly usage: (id: NamespaceId) => Promise<{ readonly bytes: number; readonly files: number }>;
}

/** Namespaces measured at once: each is a walk over its files. */
const AT_ONCE = 4;

export function namespaceRoutes({ access, namespaces, usage }: NamespaceRoutesParts) {
  return new Elysia({ prefix: "/v1/workspaces/:ws/namespaces" })
    .get("", async ({ request, params }) => {
      const workspaceId = await access.admin(request, params.ws);
      const rest = await namespaces.list(workspaceId);
      const shown = [];
      while (rest.length > 0) {
        const some = rest.splice(0, AT_ONCE).map(async ({ id, name, createdAt, lastUsedAt }) => {
          const { bytes, files } = await usage(id);
          return {
            namespace: name,
            size_bytes: bytes,
            file_count: files,
            created_at: timestamp(createdAt),
            last_used_at: timestamp(lastUsedAt),
          };
        });
        shown.push(...(await Promise.all(some)));
      }
      return { namespaces: shown };
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

import { Elysia } from "elysia";
import { z } from "zod";
import { credentialKinds, type Credential } from "../credentials/credential.ts";
import type { Credentials, NewCredential } from "../credentials/credentials.ts";
import { AppError } from "../errors.ts";
import { credentialId, namespaceName, type CredentialId } from "../ids.ts";
import type { Access } from "./auth.ts";
import { label, readJson } from "./http/body.ts";
import { timestamp } from "./http/time.ts";

const common = {
  name: label.max(100, "has more than 100 characters"),
  /** The namespaces whose runs may use it; all of the workspace unless given. */
  namespaces: z.array(namespaceName).min(1).max(1000).nullish(),
};

const newCredential = z.discriminatedUnion(
  "kind",
  [
    credentialKinds.anthropic.extend({ kind: z.literal("anthropic"), ...common }),
    credentialKinds.openai.extend({ kind: z.literal("openai"), ...common }),
    credentialKinds["github-app"].extend({ kind: z.literal("github-app"), ...common }),
    credentialKinds["git-token"].extend({ kind: z.literal("git-token"), ...common }),
  ],
  'expected "anthropic", "openai", "github-app" or "git-token"',
);

export interface CredentialRoutesParts {
  readonly access: Pick<Access, "admin" | "origin">;
  readonly credentials: Pick<Credentials, "create" | "list" | "remove">;
  /** Runs that use it lose it. */
  readonly onRemoved: (id: CredentialId) => void;
}

/** The secrets of a workspace's runs: an admin's to give and to take away, and nobody's to read. */
export function credentialRoutes({ access, credentials, onRemoved }: CredentialRoutesParts) {
  return new Elysia({ prefix: "/v1/workspaces/:ws/credentials" })
    .post(
      "",
      async ({ request, params, set }) => {
        const workspaceId = await access.admin(request, params.ws);
        const { name, kind, namespaces, ...fields } = await readJson(request, newCredential);
        const wanted: NewCredential = { name, kind, fields, namespaces: namespaces ?? null };
        const made = await credentials.create(workspaceId, wanted, access.origin(request));
        set.status = 201;
        return shown(made);
      },
      { parse: "none" },
    )
    .get("", async ({ request, params }) => {
      const workspaceId = await access.admin(request, params.ws);
      return { credentials: (await credentials.list(workspaceId)).map(shown) };
    })
    .get("/:id", async ({ request, params }) => {
      const workspaceId = await access.admin(request, params.ws);
      const found = (await credentials.list(workspaceId)).find(({ id }) => id === params.id);
      if (found === undefined) throw none();
      return shown(found);
    })
    .delete(
      "/:id",
      async ({ request, params }) => {
        const workspaceId = await access.admin(request, params.ws);
        const id = credentialId.schema.safeParse(params.id);
        if (!id.success || !(await credentials.remove(workspaceId, id.data, access.origin(request))))
          throw none();
        onRemoved(id.data);
        return { deleted: id.data };
      },
      { parse: "none" },
    );
}

function shown({ id, name, kind, settings, namespaces, createdAt, lastUsedAt }: Credential) {
  return {
    credential_id: id,
    name,
    kind,
    ...settings,
    namespaces,
    created_at: timestamp(createdAt),
    last_used_at: lastUsedAt === null ? null : timestamp(lastUsedAt),
  };
}

function none(): AppError {
  return new AppError("not_found", "The workspace has no such credential; it may have been deleted before.");
}

import { Elysia } from "elysia";
import { z } from "zod";
import { AppError } from "../../errors.ts";
import { namespaceName } from "../../ids.ts";
import { readUserCode, type UserCode } from "../../signin/code.ts";
import type { PendingLogin } from "../../signin/login.ts";
import type { Logins } from "../../signin/logins.ts";
import type { Access } from "../auth.ts";
import { readJson } from "../http/body.ts";
import { timestamp } from "../http/time.ts";

interface LoginRoutesParts {
  readonly access: Access;
  readonly logins: Logins;
}

/** Strict, since a "namespace" that was misspelt would grant the whole workspace. */
const answer = z.strictObject({ binding: z.string() });

/** A program's sign-in, looked at and answered by the code that it shows. */
export function loginRoutes({ access, logins }: LoginRoutesParts) {
  return new Elysia({ prefix: "/v1/workspaces/:ws/logins/:code" })
    .get("", async ({ request, params }) => {
      const workspaceId = await access.admin(request, params.ws);
      const login = await logins.find(codeOf(params.code), { workspaceId, origin: access.origin(request) });
      return shown(login);
    })
    .post(
      "/approve",
      async ({ request, params }) => {
        const workspaceId = await access.admin(request, params.ws);
        const { binding, namespace = null } = await readJson(
          request,
          answer.extend({ namespace: namespaceName.nullish() }),
        );
        const asked = { workspaceId, origin: access.origin(request), code: codeOf(params.code), binding };
        return { approved: await logins.approve(asked, namespace), workspace_id: workspaceId, namespace };
      },
      { parse: "none" },
    )
    .post(
      "/deny",
      async ({ request, params }) => {
        const workspaceId = await access.admin(request, params.ws);
        const { binding } = await readJson(request, answer);
        const asked = { workspaceId, origin: access.origin(request), code: codeOf(params.code), binding };
        return { denied: await logins.deny(asked) };
      },
      { parse: "none" },
    );
}

/** All that wait, of whatever workspace they will be: for the operator alone. */
export function pendingLoginRoutes({ access, logins }: LoginRoutesParts) {
  return new Elysia({ prefix: "/admin/logins" })
    .resolve(async ({ request }) => {
      await access.operatorOnly(request);
    })
    .get("", async () => ({ logins: (await logins.list()).map(shown) }));
}

function codeOf(typed: string): UserCode {
  const code = readUserCode(typed);
  if (code !== null) return code;
  throw new AppError("bad_input", "A sign-in's code is eight letters, as BCDF-GHJK; it has no vowels.");
}

function shown({ id, client, address, createdAt, expiresAt, binding }: PendingLogin) {
  return {
    login_id: id,
    client,
    address,
    created_at: timestamp(createdAt),
    expires_at: timestamp(expiresAt),
    binding,
  };
}

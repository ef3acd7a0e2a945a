import { Elysia } from "elysia";
import { AppError } from "../../errors.ts";
import { namespaceName } from "../../ids.ts";
import { readUserCode, type UserCode } from "../../signin/code.ts";
import type { Confirmation, Confirmations } from "../../signin/confirmation.ts";
import type { Answer, Logins } from "../../signin/logins.ts";
import type { Access } from "../auth.ts";
import { readForm } from "../http/body.ts";
import type { Contexts } from "../http/context.ts";
import { checkSameSite, page } from "./answer.ts";
import { askPage, confirmPage, donePage } from "./html.ts";

interface DevicePageParts {
  readonly access: Access;
  readonly logins: Pick<Logins, "find" | "approve" | "deny">;
  readonly confirmations: Confirmations;
  readonly contexts: Pick<Contexts, "of">;
}

type Form = ReadonlyMap<string, string>;

const MAX_FORM_BYTES = 8192;

/**
 * Where a person approves a program's sign-in, in two steps: the code and an admin key show who asks; then what it gets
 * is chosen. There is no session: each step is answered by what its form holds alone.
 */
export function devicePage({ access, logins, confirmations, contexts }: DevicePageParts) {
  async function look(request: Request, form: Form): Promise<Response> {
    const { workspaceId, keyId } = await access.adminOfForm(request, {
      apiKey: (form.get("admin_key") ?? "").trim(),
    });
    const code = codeOf(form.get("user_code"));
    const login = await logins.find(code, { workspaceId, origin: access.origin(request) });
    const confirmation = confirmations.seal({ keyId, code, binding: login.binding });
    return page(confirmPage({ login, code, workspaceId, confirmation }));
  }

  async function answer(request: Request, form: Form, sealed: string): Promise<Response> {
    const shown = confirmations.open(sealed);
    const { workspaceId } = await access.adminOfForm(request, { keyId: shown.keyId });
    const { code, binding } = shown;
    const asked: Answer = { workspaceId, origin: access.origin(request), code, binding };
    if (form.get("answer") === "deny") {
      await logins.deny(asked);
      return page(donePage("Denied", "The program was told so, and got nothing."));
    }
    if (form.get("answer") !== "approve") throw new AppError("bad_input", "Choose approve or deny.");
    try {
      const namespace = grantOf(form);
      await logins.approve(asked, namespace);
      const what = namespace === null ? `the workspace ${workspaceId}` : `the namespace ${namespace}`;
      return page(donePage("Approved", `The program now gets a key for ${what}. You can close this page.`));
    } catch (error) {
      return askAgain(request, shown, sealed, error);
    }
  }

  /** The second step anew, when its only fault is what was typed there. */
  async function askAgain(
    request: Request,
    { code, keyId }: Confirmation,
    confirmation: string,
    error: unknown,
  ): Promise<Response> {
    if (!(error instanceof AppError) || error.code !== "invalid") throw error;
    const { workspaceId } = await access.adminOfForm(request, { keyId });
    const login = await logins.find(code, { workspaceId, origin: access.origin(request) });
    return page(confirmPage({ login, code, workspaceId, confirmation, alert: error.message }), error);
  }

  return new Elysia()
    .get("/device", ({ request }) => {
      const typed = new URL(request.url).searchParams.get("user_code");
      return page(askPage({ code: readUserCode(typed ?? "") }));
    })
    .post(
      "/device",
      async ({ request }) => {
        let code: UserCode | null = null;
        try {
          checkSameSite(request, contexts.of(request).host);
          const form = await readForm(request, MAX_FORM_BYTES);
          code = readUserCode(form.get("user_code") ?? "");
          const sealed = form.get("confirmation");
          return await (sealed === undefined ? look(request, form) : answer(request, form, sealed));
        } catch (error) {
          if (!(error instanceof AppError)) throw error;
          return page(askPage({ code, alert: alertOf(error) }), error);
        }
      },
      { parse: "none" },
    );
}

function codeOf(typed: string | undefined): UserCode {
  const code = readUserCode(typed ?? "");
  if (code !== null) return code;
  throw new AppError("bad_input", "A code is eight letters, as BCDF-GHJK; it has no vowels.");
}

/** null for the workspace. A name beside the other choice is a slip that would grant more than was meant. */
function grantOf(form: Form): string | null {
  const typed = (form.get("namespace") ?? "").trim();
  if (form.get("grant") === "workspace") {
    if (typed === "") return null;
    throw new AppError("invalid", "You named a namespace but chose the whole workspace; choose one of them.");
  }
  const name = namespaceName.safeParse(typed);
  if (name.success) return name.data;
  throw new AppError("invalid", name.error.issues[0]?.message ?? "That is no namespace's name.");
}

/** What the API says of a key speaks of headers. */
function alertOf(error: AppError): string {
  return error.code === "unauthenticated" ? "That admin key does not work here." : error.message;
}

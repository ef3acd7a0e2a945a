import { AppError } from "../../errors.ts";
import { namespaceName } from "../../ids.ts";
import type { Caller } from "../../keys/caller.ts";

/**
 * The namespace whose events the caller may have and asked for; null for all of the workspace's. Nothing here depends
 * on what exists.
 */
export function visibleNamespace(caller: Caller, named: string | null): string | null {
  if (caller.scope === "workspace" && caller.lockedNamespace !== null) {
    const own = caller.lockedNamespace;
    if (named !== null && named !== own) {
      throw new AppError("forbidden", "This key is locked to one namespace, and ?namespace names another.");
    }
    return own;
  }
  if (named === null) {
    if (caller.scope === "workspace") {
      throw new AppError(
        "forbidden",
        "Name the namespace, ?namespace=NAME; all events are for an admin key.",
      );
    }
    return null;
  }
  const name = namespaceName.safeParse(named);
  if (!name.success) throw new AppError("bad_input", `namespace: ${name.error.issues[0]?.message ?? ""}`);
  return name.data;
}

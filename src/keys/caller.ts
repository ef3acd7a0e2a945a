import { AppError } from "../errors.ts";
import type { KeyId, WorkspaceId } from "../ids.ts";

export interface KeyHolder {
  readonly scope: "admin" | "workspace";
  readonly workspaceId: WorkspaceId;
  readonly keyId: KeyId;
  readonly keyName: string;
  /** The one namespace that the key opens; null for any of its workspace. */
  readonly lockedNamespace: string | null;
}

/** Who makes a call. The operator has no key: the admin socket's permissions are the proof. */
export type Caller = { readonly scope: "operator" } | KeyHolder;

/** One text for no key, an unknown and a revoked one. */
export function unauthenticated(): AppError {
  return new AppError(
    "unauthenticated",
    "Send a valid API key in the Authorization header: Bearer trove-sk-…",
  );
}

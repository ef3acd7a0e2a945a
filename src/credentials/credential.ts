import { z } from "zod";
import { AppError } from "../errors.ts";
import type { CredentialId, WorkspaceId } from "../ids.ts";

/** The kinds of secrets that the gateway can use for a run, each with the fields that POST …/credentials takes for it. */
const url = z.string().min(1).max(2048);
const secret = z
  .string()
  .min(1, "must not be empty")
  .max(16 * 1024);

/** A header's value: what is no part of one would let a secret end a header and begin another. */
const headerSecret = secret.regex(/^[!-~]+$/, "must be printable ASCII without spaces");

const APP_ID = "expected the id of a GitHub App";

export const credentialKinds = {
  anthropic: z.strictObject({ secret: headerSecret, base_url: url.optional() }),
  openai: z.strictObject({ secret: headerSecret, base_url: url.optional() }),
  "github-app": z.strictObject({
    app_id: z.union(
      [z.string().regex(/^[A-Za-z0-9._-]{1,100}$/, APP_ID), z.int().min(1).transform(String)],
      APP_ID,
    ),
    private_key: secret.regex(/^-----BEGIN (RSA )?PRIVATE KEY-----/, "expected a PEM private key"),
    api_url: url.optional(),
    git_url: url.optional(),
  }),
  "git-token": z.strictObject({
    username: z
      .string()
      .regex(/^[^:\p{Cc}]{1,200}$/u, "must hold no colon and no control character")
      .optional(),
    secret: headerSecret,
    git_url: url,
  }),
} as const;

export type CredentialKind = keyof typeof credentialKinds;

/** Of each kind, the fields that nobody sees again. They are sealed, as JSON; the others are the row's `settings`. */
const SECRET_FIELDS = {
  anthropic: ["secret"],
  openai: ["secret"],
  "github-app": ["private_key"],
  "git-token": ["secret"],
} as const satisfies Record<CredentialKind, readonly string[]>;

/** Where each kind leads when nothing else is said. */
const DEFAULT_URLS = {
  anthropic: { base_url: "https://api.anthropic.com" },
  openai: { base_url: "https://api.openai.com/v1" },
  "github-app": { api_url: "https://api.github.com", git_url: "https://github.com" },
  "git-token": {},
} as const satisfies Record<CredentialKind, Readonly<Record<string, string>>>;

export const URL_FIELDS = ["base_url", "api_url", "git_url"] as const;

export interface Credential {
  readonly id: CredentialId;
  readonly workspaceId: WorkspaceId;
  readonly name: string;
  readonly kind: CredentialKind;
  /** All that is no secret: URLs, the app's id, the user name. */
  readonly settings: Readonly<Record<string, string>>;
  /** The names of those whose runs may use it; null: all of the workspace. */
  readonly namespaces: readonly string[] | null;
  readonly createdAt: number;
  readonly lastUsedAt: number | null;
}

/** Parts the fields of a kind into what may be shown and what is sealed. */
export function partsOf(
  kind: CredentialKind,
  fields: Readonly<Record<string, unknown>>,
): { settings: Record<string, string>; secrets: Record<string, string> } {
  const sealed: readonly string[] = SECRET_FIELDS[kind];
  const given = Object.entries(fields).filter(
    (field): field is [string, string] => typeof field[1] === "string",
  );
  return {
    settings: {
      ...DEFAULT_URLS[kind],
      ...Object.fromEntries(given.filter(([name]) => !sealed.includes(name))),
    },
    secrets: Object.fromEntries(given.filter(([name]) => sealed.includes(name))),
  };
}

export function noCredential(name: string): AppError {
  return new AppError(
    "invalid",
    `There is no credential "${name}" that runs of this namespace may use; an admin makes one with POST /v1/workspaces/{ws}/credentials, or on the host with: cofferdam credential create.`,
  );
}

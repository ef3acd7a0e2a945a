import { z } from "zod";

/**
 * Every identifier is a prefix, a dash and random lower-case base32 text, made here and nowhere else.
 * They are safe as file names, container ids and log fields; nothing a tenant chose is ever part of one.
 */
const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";

function randomText(length: number): string {
  const bytes = crypto.getRandomValues(new Uint8Array(length));
  return Array.from(bytes, (byte) => ALPHABET[byte & 31]).join("");
}

function idKind<P extends string>(prefix: P, length: number) {
  const schema = z
    .string()
    .regex(new RegExp(`^${prefix}-[a-z2-7]{${length}}$`), `expected an id like ${prefix}-…`)
    .transform((text) => text as `${P}-${string}` & z.core.$brand<P>);
  return { schema, make: () => schema.parse(`${prefix}-${randomText(length)}`) };
}

export const workspaceId = idKind("ws", 16);
export const namespaceId = idKind("ns", 16);
export const keyId = idKind("key", 16);
/** One line of the audit log. */
export const eventId = idKind("evt", 20);
/** One sign-in of a program, from its start until its key is fetched. */
export const loginId = idKind("login", 16);
/** One endpoint that events are sent to. */
export const webhookId = idKind("wh", 16);
/** A namespace's files as they were at one moment. */
export const snapshotId = idKind("snap", 16);
/** One supervised process with a worktree, a network and gateways of its own. */
export const runId = idKind("run", 10);
/** A secret that the gateway uses on behalf of runs. */
export const credentialId = idKind("cred", 16);
/** One HTTP request, in the log and in X-Request-Id. */
export const requestId = idKind("req", 16);
/** One gVisor instance. Short, because runsc's control socket path holds it and sun_path is 108 bytes. */
export const sandboxId = idKind("sb", 10);

/** One backup. It begins with when it was begun, so that a plain listing of a target is in that order. */
export const backupId = {
  schema: z
    .string()
    .regex(/^backup-\d{8}t\d{9}z-[a-z2-7]{6}$/, "expected an id like backup-20261126t233616123z-abc234")
    .transform((text) => text as `backup-${string}` & z.core.$brand<"backup">),
  make: (now: number) => {
    const time = new Date(now).toISOString().replaceAll(/[-:.]/g, "").toLowerCase();
    return backupId.schema.parse(`backup-${time}-${randomText(6)}`);
  },
};

export type WorkspaceId = z.infer<typeof workspaceId.schema>;
export type NamespaceId = z.infer<typeof namespaceId.schema>;
export type KeyId = z.infer<typeof keyId.schema>;
export type EventId = z.infer<typeof eventId.schema>;
export type LoginId = z.infer<typeof loginId.schema>;
export type WebhookId = z.infer<typeof webhookId.schema>;
export type SnapshotId = z.infer<typeof snapshotId.schema>;
export type RunId = z.infer<typeof runId.schema>;
export type CredentialId = z.infer<typeof credentialId.schema>;
export type RequestId = z.infer<typeof requestId.schema>;
export type SandboxId = z.infer<typeof sandboxId.schema>;
export type BackupId = z.infer<typeof backupId.schema>;

/** What tells two instances on one host apart in every name they put there. */
export type InstanceTag = string & z.core.$brand<"inst">;

/**
 * A namespace's name, chosen by the caller. Never used in a path or a command: directories come from NamespaceId.
 * The first character is a letter or digit, so that a name can't be read as a flag or a dot file.
 */
export const namespaceName = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._@:+-]{0,127}$/,
    "A namespace name has 1 to 128 characters of A-Z a-z 0-9 . _ @ : + - and starts with a letter or digit.",
  );

import { blob, integer, sqliteTable, text } from "drizzle-orm/sqlite-core";
import type {
  CredentialId,
  EventId,
  KeyId,
  LoginId,
  NamespaceId,
  RunId,
  SnapshotId,
  WebhookId,
  WorkspaceId,
} from "../ids.ts";

/** The tables as drizzle sees them; src/db/migrations.ts makes them. Times are milliseconds since 1970, UTC. */

export const workspaces = sqliteTable("workspaces", {
  id: text("id").$type<WorkspaceId>().primaryKey(),
  name: text("name").notNull(),
  createdAt: integer("created_at").notNull(),
});

export const namespaces = sqliteTable("namespaces", {
  id: text("id").$type<NamespaceId>().primaryKey(),
  workspaceId: text("workspace_id").$type<WorkspaceId>().notNull(),
  name: text("name").notNull(),
  createdAt: integer("created_at").notNull(),
  lastUsedAt: integer("last_used_at").notNull(),
  /** Set when its deletion began: the name is free again, and its files go next. */
  deletingAt: integer("deleting_at"),
  /** Its key, sealed; src/keys/namespace-keys.ts. Gone as soon as its deletion begins. */
  wrappedKey: blob("wrapped_key", { mode: "buffer" }),
  /** What its files come to; src/volumes/usage-rows.ts. */
  usageBytes: integer("usage_bytes").notNull().default(0),
  usageFiles: integer("usage_files").notNull().default(0),
  usageDirectories: integer("usage_directories").notNull().default(0),
  /** The time of its chain's newest event when that was so, in microseconds; null when it has to be counted again. */
  usageAt: integer("usage_at"),
  /** In S3 mode, of its last claim; src/remote/epochs.ts. 0: the bucket has never had its files. */
  claimedEpoch: integer("claimed_epoch").notNull().default(0),
});

export const keys = sqliteTable("keys", {
  id: text("id").$type<KeyId>().primaryKey(),
  workspaceId: text("workspace_id").$type<WorkspaceId>().notNull(),
  name: text("name").notNull(),
  scope: text("scope").$type<"admin" | "workspace">().notNull(),
  /** The one namespace that a locked key opens. */
  namespaceId: text("namespace_id").$type<NamespaceId>(),
  /** Its first characters, to tell keys apart in a list. */
  prefix: text("prefix").notNull(),
  /** SHA-256 of the whole key, in hex. The key itself is nowhere. */
  hash: text("hash").notNull(),
  createdAt: integer("created_at").notNull(),
  lastUsedAt: integer("last_used_at"),
  revokedAt: integer("revoked_at"),
});

/** The first run. While `doneAt` is null nobody may have seen the keys that it made. */
export const setup = sqliteTable("setup", {
  id: integer("id").primaryKey(),
  workspaceId: text("workspace_id").$type<WorkspaceId>().notNull(),
  doneAt: integer("done_at"),
});

/** The audit log. Times in it are microseconds; src/audit writes all of it, in SQL of its own where it is hot. */
export const events = sqliteTable("events", {
  chain: text("chain").$type<WorkspaceId | "appliance">().notNull(),
  createdAt: integer("created_at").notNull(),
  seq: integer("seq").notNull(),
  id: text("id").$type<EventId>().notNull(),
  type: text("type").notNull(),
  namespace: text("namespace"),
  body: text("body").notNull(),
  hash: text("hash").notNull(),
});

export const heads = sqliteTable("heads", {
  chain: text("chain").$type<WorkspaceId | "appliance">().primaryKey(),
  seq: integer("seq").notNull(),
  createdAt: integer("created_at").notNull(),
  hash: text("hash").notNull(),
  mac: text("mac").notNull(),
});

export const checkpoints = sqliteTable("checkpoints", {
  chain: text("chain").$type<WorkspaceId | "appliance">().primaryKey(),
  seq: integer("seq").notNull(),
  createdAt: integer("created_at").notNull(),
  hash: text("hash").notNull(),
  cutAt: integer("cut_at").notNull(),
  /** Base64, ed25519. */
  signature: text("signature").notNull(),
});

export const intents = sqliteTable("intents", {
  id: text("id").$type<EventId>().primaryKey(),
  begunAt: integer("begun_at").notNull(),
  namespaceId: text("namespace_id").$type<NamespaceId>().notNull(),
  draft: text("draft").notNull(),
  mac: text("mac").notNull().default(""),
});

/** Sign-ins under way; src/signin. */
export const deviceLogins = sqliteTable("device_logins", {
  id: text("id").$type<LoginId>().primaryKey(),
  /** SHA-256 of what the program polls with, and a keyed one of what a person types. */
  deviceHash: text("device_hash").notNull(),
  userHash: text("user_hash").notNull(),
  /** What the program calls itself, and where it asked from. */
  client: text("client").notNull(),
  address: text("address").notNull(),
  /** What starts are counted by: the address, or for IPv6 its /64; and the network around it. */
  source: text("source").notNull(),
  network: text("network").notNull(),
  createdAt: integer("created_at").notNull(),
  expiresAt: integer("expires_at").notNull(),
  state: text("state").$type<"pending" | "approved" | "denied">().notNull(),
  /** Of an approved one: what is granted, and who did. */
  workspaceId: text("workspace_id").$type<WorkspaceId>(),
  namespaceId: text("namespace_id").$type<NamespaceId>(),
  approverKeyId: text("approver_key_id").$type<KeyId>(),
  approverLocalUser: text("approver_local_user"),
});

export const webhooks = sqliteTable("webhooks", {
  id: text("id").$type<WebhookId>().primaryKey(),
  workspaceId: text("workspace_id").$type<WorkspaceId>().notNull(),
  url: text("url").notNull(),
  /** Patterns: "*", "file.*" or a type. */
  events: text("events", { mode: "json" }).$type<string[]>().notNull(),
  /** Only this namespace's events. */
  namespace: text("namespace"),
  description: text("description"),
  createdAt: integer("created_at").notNull(),
  /** A deleted one stays until its deliveries are gone. */
  state: text("state").$type<"enabled" | "disabled" | "deleted">().notNull(),
  disabledReason: text("disabled_reason"),
  /** Its first event comes after this time in the log, in microseconds. */
  startsAfter: integer("starts_after").notNull(),
  /** Sealed, both. The previous one counts until `previousUntil`. */
  secret: blob("secret", { mode: "buffer" }).notNull(),
  previousSecret: blob("previous_secret", { mode: "buffer" }),
  previousUntil: integer("previous_until"),
  /** The first of the failures that nothing interrupted. */
  failingSince: integer("failing_since"),
  lastDeliveryOk: integer("last_delivery_ok", { mode: "boolean" }),
  lastDeliveryStatus: integer("last_delivery_status"),
  lastDeliveryAt: integer("last_delivery_at"),
  lastDeliveryError: text("last_delivery_error"),
});

export const snapshots = sqliteTable("snapshots", {
  id: text("id").$type<SnapshotId>().primaryKey(),
  namespaceId: text("namespace_id").$type<NamespaceId>().notNull(),
  /** Callers see those that one of them made; a backup's are its own. */
  kind: text("kind").$type<"user" | "backup">().notNull(),
  label: text("label"),
  createdAt: integer("created_at").notNull(),
  /** Of the files' contents, and what it added to the store. */
  sizeBytes: integer("size_bytes").notNull(),
  storedBytes: integer("stored_bytes").notNull(),
  fileCount: integer("file_count").notNull(),
  /** FIFOs, sockets and devices that were left out. */
  skipped: integer("skipped").notNull(),
  /** The ids of the blobs that hold its list of files. */
  manifest: text("manifest", { mode: "json" }).$type<{ readonly blobs: readonly string[] }>().notNull(),
});

export const restores = sqliteTable("restores", {
  namespaceId: text("namespace_id").$type<NamespaceId>().primaryKey(),
  snapshotId: text("snapshot_id").$type<SnapshotId>().notNull(),
});

/** Secrets that runs use by way of the gateway; src/credentials. */
export const credentials = sqliteTable("credentials", {
  id: text("id").$type<CredentialId>().primaryKey(),
  workspaceId: text("workspace_id").$type<WorkspaceId>().notNull(),
  name: text("name").notNull(),
  kind: text("kind").$type<"anthropic" | "openai" | "github-app" | "git-token">().notNull(),
  /** All of it but the secret. */
  settings: text("settings", { mode: "json" }).$type<Readonly<Record<string, string>>>().notNull(),
  /** The names of those whose runs may use it; null: all. */
  namespaces: text("namespaces", { mode: "json" }).$type<readonly string[]>(),
  /** To the gateway's key: api can't open it. */
  sealed: blob("sealed", { mode: "buffer" }).notNull(),
  createdAt: integer("created_at").notNull(),
  lastUsedAt: integer("last_used_at"),
});

/** What a workspace's runs may be at most; src/runs/policy.ts. */
export const policies = sqliteTable("policies", {
  workspaceId: text("workspace_id").$type<WorkspaceId>().primaryKey(),
  policy: text("policy", { mode: "json" }).$type<unknown>().notNull(),
  changedAt: integer("changed_at").notNull(),
});

/** src/runs. What is JSON here is read by the schemas there. */
export const runs = sqliteTable("runs", {
  id: text("id").$type<RunId>().primaryKey(),
  workspaceId: text("workspace_id").$type<WorkspaceId>().notNull(),
  namespaceId: text("namespace_id").$type<NamespaceId>().notNull(),
  keyId: text("key_id").$type<KeyId>(),
  status: text("status")
    .$type<
      | "queued"
      | "preparing"
      | "running"
      | "succeeded"
      | "failed"
      | "cancelled"
      | "timed_out"
      | "budget_exhausted"
      | "error"
    >()
    .notNull(),
  label: text("label"),
  request: text("request", { mode: "json" }).$type<unknown>().notNull(),
  /** What it may reach, narrowed by the workspace's policy: what the gateway is told, without secrets. */
  grants: text("grants", { mode: "json" }).$type<unknown>().notNull(),
  limits: text("limits", { mode: "json" }).$type<unknown>().notNull(),
  createdAt: integer("created_at").notNull(),
  startedAt: integer("started_at"),
  finishedAt: integer("finished_at"),
  deadline: integer("deadline"),
  exitCode: integer("exit_code"),
  error: text("error"),
  /** Why it is being stopped, and the status that makes of it. */
  stop: text("stop", { mode: "json" }).$type<unknown>(),
  /** Of the host's boot that it runs under. */
  bootId: text("boot_id"),
  /** What sandboxd has told of its end. */
  fate: text("fate", { mode: "json" }).$type<unknown>(),
  /** Nothing is left to be done for it: it is over, and sandboxd and gateway have forgotten it. */
  settled: integer("settled", { mode: "boolean" }).notNull().default(false),
  /** Its addresses, once sandboxd has given them. */
  network: text("network", { mode: "json" }).$type<unknown>(),
  /** Its token, its environment and its stdin, sealed; null once it is over. */
  given: blob("given", { mode: "buffer" }),
  timings: text("timings", { mode: "json" }).$type<unknown>().notNull().default({}),
  usage: text("usage", { mode: "json" }).$type<unknown>().notNull().default({}),
  denials: text("denials", { mode: "json" }).$type<unknown>().notNull().default([]),
  /** Billionths of a dollar. */
  usdNano: integer("usd_nano").notNull().default(0),
  /** How far the gateway's journal of it has been read. */
  gatewaySeq: integer("gateway_seq").notNull().default(0),
  worktree: text("worktree")
    .$type<"none" | "making" | "ready" | "merging" | "merged" | "discarded">()
    .notNull(),
  /** The manifest that its worktree was made from, and the one of what it left. */
  base: text("base", { mode: "json" }).$type<unknown>(),
  result: text("result", { mode: "json" }).$type<unknown>(),
  receipt: text("receipt", { mode: "json" }).$type<unknown>(),
  /** What was known before its end of what its receipt says; src/runs/facts.ts. */
  origin: text("origin", { mode: "json" }).$type<unknown>(),
  madeOf: text("made_of", { mode: "json" }).$type<unknown>(),
});

/** The newest proofs that the walls hold; src/runs/proofs.ts. */
export const proofs = sqliteTable("proofs", {
  id: integer("id").primaryKey({ autoIncrement: true }),
  at: integer("at").notNull(),
  passed: integer("passed", { mode: "boolean" }).notNull(),
  report: text("report", { mode: "json" }).$type<unknown>().notNull(),
  /** Why runs begin although it failed, and who says so. */
  override: text("override", { mode: "json" }).$type<{ readonly reason: string; readonly by: string }>(),
});

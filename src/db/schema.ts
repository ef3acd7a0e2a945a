import { integer, sqliteTable, text } from "drizzle-orm/sqlite-core";
import type { KeyId, NamespaceId, WorkspaceId } from "../ids.ts";

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

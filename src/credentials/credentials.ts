import { and, asc, count, eq, inArray } from "drizzle-orm";
import type { Origin } from "../audit/event.ts";
import { unchanged, type Ledger } from "../audit/ledger.ts";
import type { Database } from "../db/open.ts";
import { credentials as table } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import { credentialId, type CredentialId, type WorkspaceId } from "../ids.ts";
import { noCredential, partsOf, URL_FIELDS, type Credential, type CredentialKind } from "./credential.ts";

export interface CredentialsParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "change">;
  /** To the gateway's key, so that what is stored opens nowhere else. Throws when the gateway is away. */
  readonly seal: (plain: Uint8Array, boundTo: CredentialId) => Promise<Uint8Array>;
  /** A URL in its one spelling. Throws an AppError for one that the gateway would not dial. */
  readonly checkUrl: (url: string) => Promise<string>;
  readonly now?: () => number;
}

export interface NewCredential {
  readonly name: string;
  readonly kind: CredentialKind;
  /** As the kind's schema has let them pass. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly namespaces: readonly string[] | null;
}

export type Credentials = ReturnType<typeof createCredentials>;

/** Of one workspace. */
const MOST = 200;

/** The secrets that a workspace lets its runs use. api never holds one for longer than the call that brings it. */
export function createCredentials({ db, ledger, seal, checkUrl, now = Date.now }: CredentialsParts) {
  async function checked(settings: Readonly<Record<string, string>>): Promise<Record<string, string>> {
    const urls = URL_FIELDS.filter((field) => settings[field] !== undefined).map(async (field) => {
      const href = await checkUrl(settings[field] ?? "").catch((error: unknown) => {
        throw error instanceof AppError ? new AppError(error.code, `${field}: ${error.message}`) : error;
      });
      return [field, href.replace(/\/+$/, "")] as const;
    });
    return { ...settings, ...Object.fromEntries(await Promise.all(urls)) };
  }

  return {
    async create(workspaceId: WorkspaceId, wanted: NewCredential, origin: Origin): Promise<Credential> {
      const { name, kind, namespaces } = wanted;
      const parts = partsOf(kind, wanted.fields);
      const settings = await checked(parts.settings);
      const id = credentialId.make();
      // With where it may be sent, so that not even api could have the gateway send it elsewhere.
      const plain = JSON.stringify({ ...settings, ...parts.secrets });
      const sealed = Buffer.from(await seal(Buffer.from(plain), id));
      const row = { id, workspaceId, name, kind, settings, namespaces, createdAt: now(), lastUsedAt: null };
      return ledger.change(async () => {
        const [found] = await db.select({ n: count() }).from(table).where(eq(table.workspaceId, workspaceId));
        if ((found?.n ?? 0) >= MOST) {
          throw new AppError("conflict", `The workspace has ${MOST} credentials, the most there may be.`);
        }
        const named = and(eq(table.workspaceId, workspaceId), eq(table.name, name));
        const [taken] = await db.select({ id: table.id }).from(table).where(named);
        if (taken !== undefined) {
          throw new AppError(
            "conflict",
            `There is a credential "${name}" already (${taken.id}); delete it first.`,
          );
        }
        const data = {
          credential_id: id,
          name,
          kind,
          namespaces: namespaces === null ? null : [...namespaces],
        };
        return {
          statements: [db.insert(table).values({ ...row, sealed })],
          events: [{ chain: workspaceId, type: "credential.created", namespace: null, data, origin }],
          result: row,
        };
      });
    },

    async list(workspaceId: WorkspaceId): Promise<Credential[]> {
      return db
        .select(SHOWN)
        .from(table)
        .where(eq(table.workspaceId, workspaceId))
        .orderBy(asc(table.createdAt), asc(table.id));
    },

    /** false when there is no such one. Runs that use it lose it: the caller tells them. */
    async remove(workspaceId: WorkspaceId, id: CredentialId, origin: Origin): Promise<boolean> {
      return ledger.change(async () => {
        const mine = and(eq(table.id, id), eq(table.workspaceId, workspaceId));
        const [row] = await db.select(SHOWN).from(table).where(mine);
        if (row === undefined) return unchanged(false);
        const data = { credential_id: id, name: row.name, kind: row.kind };
        return {
          statements: [db.delete(table).where(mine)],
          events: [{ chain: workspaceId, type: "credential.deleted", namespace: null, data, origin }],
          result: true,
        };
      });
    },

    /** By its name, if runs of that namespace may use it. One that they may not looks like none. */
    async named(workspaceId: WorkspaceId, namespace: string, name: string): Promise<Credential> {
      const named = and(eq(table.workspaceId, workspaceId), eq(table.name, name));
      const [row] = await db.select(SHOWN).from(table).where(named);
      if (row === undefined || row.namespaces?.includes(namespace) === false) throw noCredential(name);
      return row;
    },

    /** For the gateway. One that was deleted meanwhile is not among them. */
    async sealed(ids: readonly CredentialId[]): Promise<ReadonlyMap<CredentialId, Uint8Array>> {
      if (ids.length === 0) return new Map();
      const rows = await db
        .select({ id: table.id, sealed: table.sealed })
        .from(table)
        .where(inArray(table.id, [...ids]));
      return new Map(rows.map(({ id, sealed }) => [id, sealed]));
    },

    /** A statement for whoever commits what the use was. */
    used: (id: CredentialId, at: number) => db.update(table).set({ lastUsedAt: at }).where(eq(table.id, id)),
  };
}

const SHOWN = {
  id: table.id,
  workspaceId: table.workspaceId,
  name: table.name,
  kind: table.kind,
  settings: table.settings,
  namespaces: table.namespaces,
  createdAt: table.createdAt,
  lastUsedAt: table.lastUsedAt,
};

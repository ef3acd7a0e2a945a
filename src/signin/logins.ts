import { and, asc, eq, gt } from "drizzle-orm";
import type { Origin } from "../audit/event.ts";
import { unchanged, type Ledger } from "../audit/ledger.ts";
import type { Database } from "../db/open.ts";
import { deviceLogins as table, keys as keyTable, namespaces as namespaceTable } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import { loginId, type LoginId, type WorkspaceId } from "../ids.ts";
import type { Keys } from "../keys/keys.ts";
import type { Namespaces } from "../keys/namespaces.ts";
import type { Secrets } from "../secrets.ts";
import { hashDeviceCode, hashUserCode, makeDeviceCode, makeUserCode, type UserCode } from "./code.ts";
import { createGuesses } from "./guesses.ts";
import { checkBinding, noSuchLogin, shown, told, type LoginRow, type PendingLogin } from "./login.ts";
import { createPace, INTERVAL_S } from "./pace.ts";
import { makeRoom, MAX_IN_ALL, MAX_PER_SOURCE, removeExpired, startStatement } from "./room.ts";
import { sourceOf } from "../net/source.ts";

const LIFE_S = 10 * 60;

/** An approver's, with whom wrong codes are counted. */
export interface Asker {
  readonly workspaceId: WorkspaceId;
  readonly origin: Origin;
}

export interface Answer extends Asker {
  readonly code: UserCode;
  readonly binding: string;
}

export type Poll =
  | { readonly status: "pending" | "denied" | "expired" }
  | { readonly status: "approved"; readonly apiKey: string; readonly workspaceId: WorkspaceId };

export interface LoginsParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "change">;
  readonly secrets: Pick<Secrets, "derive">;
  readonly keys: Pick<Keys, "creation">;
  readonly namespaces: Pick<Namespaces, "ensure">;
  /** Milliseconds since 1970, and milliseconds that no one sets. */
  readonly now?: () => number;
  readonly ticks?: () => number;
  /** How many may be under way; for tests. */
  readonly places?: number;
}

export type Logins = ReturnType<typeof createLogins>;

/**
 * Sign-in of a program by a person (RFC 8628). The program gets a code to show and one to poll with; a person with an
 * admin key approves; the key is made by the poll that fetches it, so that none ever waits here.
 */
export function createLogins(parts: LoginsParts) {
  const { db, ledger, keys, namespaces } = parts;
  const { now = Date.now, ticks = () => performance.now(), places = MAX_IN_ALL } = parts;
  const userCodeKey = parts.secrets.derive("sign-in codes");
  const guesses = createGuesses(ticks);
  const pace = createPace(ticks);

  const hashOf = (code: UserCode) => hashUserCode(userCodeKey, code);

  async function pending(code: UserCode): Promise<LoginRow | null> {
    const rows = await db
      .select()
      .from(table)
      .where(and(eq(table.userHash, hashOf(code)), eq(table.state, "pending"), gt(table.expiresAt, now())));
    return rows[0] ?? null;
  }

  /** Whatever a code is that does not wait for an answer, it is told by the same words. */
  async function guess(code: UserCode, { workspaceId, origin }: Asker): Promise<LoginRow> {
    const source = origin.address === null ? null : sourceOf(origin.address).source;
    const tried = guesses.begin({ workspaceId, source });
    const row = await pending(code);
    if (row === null) throw noSuchLogin();
    tried.right();
    return row;
  }

  /** In a plan: the sign-in that is to be answered, if it is the one that was shown. */
  async function toAnswer(answer: Answer): Promise<LoginRow> {
    const row = await guess(answer.code, answer);
    checkBinding(row, answer.binding);
    return row;
  }

  /** The poll that may come to a key. Of any that race, one finds the row. */
  async function collect(deviceHash: string, origin: Origin): Promise<Poll> {
    return ledger.change<Poll>(async () => {
      const [found] = await db
        .select({ login: table, namespace: namespaceTable, approver: keyTable })
        .from(table)
        .leftJoin(namespaceTable, eq(namespaceTable.id, table.namespaceId))
        .leftJoin(keyTable, eq(keyTable.id, table.approverKeyId))
        .where(and(eq(table.deviceHash, deviceHash), gt(table.expiresAt, now())));
      const login = found?.login;
      if (login === undefined || login.state !== "approved" || login.workspaceId === null) {
        return unchanged({ status: "expired" });
      }
      const consumed = db.delete(table).where(eq(table.id, login.id));
      // The grant ends with what it stands on: an approver whose key was revoked since, a namespace that was deleted.
      if (found?.approver?.revokedAt != null || found?.namespace?.deletingAt != null) {
        return { statements: [consumed], events: [], result: { status: "expired" } };
      }
      const namespace = found?.namespace ?? null;
      const { key, statements, events } = keys.creation(
        {
          workspaceId: login.workspaceId,
          name: `trove login from ${login.address}`,
          scope: "workspace",
          namespace,
        },
        origin,
      );
      const approval = {
        login_id: login.id,
        approved_by_key_id: login.approverKeyId,
        approved_by_local_user: login.approverLocalUser,
      };
      return {
        statements: [consumed, ...statements],
        events: events.map((event) => ({ ...event, data: { ...event.data, ...approval } })),
        result: { status: "approved", apiKey: key.apiKey, workspaceId: login.workspaceId },
      };
    });
  }

  return {
    /** `address` null is a client that has none. Both codes are shown this once and stored as hashes. */
    async start({ client, address }: { readonly client: string; readonly address: string | null }) {
      const deviceCode = makeDeviceCode();
      const userCode = makeUserCode();
      const from = address ?? "unknown";
      const at = now();
      const row = {
        id: loginId.make(),
        deviceHash: hashDeviceCode(deviceCode) ?? "",
        userHash: hashOf(userCode),
        client,
        address: from,
        ...sourceOf(from),
        createdAt: at,
        expiresAt: at + LIFE_S * 1000,
      };
      const [, , inserted] = await db.$client.batch(
        [removeExpired(at), makeRoom(row.source, places), startStatement(row)],
        "write",
      );
      if (inserted?.rowsAffected !== 1) {
        throw new AppError(
          "busy",
          `${MAX_PER_SOURCE} sign-ins from your address wait for an answer already; finish one, or wait.`,
          { retryAfterS: 60 },
        );
      }
      return { deviceCode, userCode, expiresInS: LIFE_S, intervalS: INTERVAL_S };
    },

    /** Once approved, the first poll gets the key and the code is used up. */
    async poll(deviceCode: string, origin: Origin): Promise<Poll> {
      const deviceHash = hashDeviceCode(deviceCode);
      if (deviceHash === null) return { status: "expired" };
      const [row] = await db
        .select()
        .from(table)
        .where(and(eq(table.deviceHash, deviceHash), gt(table.expiresAt, now())));
      if (row === undefined) return { status: "expired" };
      pace.check(row.id);
      return row.state === "approved" ? collect(deviceHash, origin) : { status: row.state };
    },

    /** The sign-in with this code that waits for an answer. */
    async find(code: UserCode, asker: Asker): Promise<PendingLogin> {
      return shown(await guess(code, asker));
    },

    /** Grants the workspace, or one namespace of it. */
    async approve(answer: Answer, namespace: string | null): Promise<LoginId> {
      const { workspaceId, origin } = answer;
      return ledger.change(async () => {
        const row = await toAnswer(answer);
        // Now that nobody else can answer or delete it, and here, so that the approver hears why it can't be made.
        const namespaceId = namespace === null ? null : await namespaces.ensure(workspaceId, namespace);
        const granted = {
          state: "approved",
          workspaceId,
          namespaceId,
          approverKeyId: origin.keyId,
          approverLocalUser: origin.localUser,
        } as const;
        const data = { ...told(row), scope: "workspace", namespace };
        return {
          statements: [db.update(table).set(granted).where(eq(table.id, row.id))],
          events: [{ chain: workspaceId, type: "login.approved", namespace, data, origin }],
          result: row.id,
        };
      });
    },

    async deny(answer: Answer): Promise<LoginId> {
      const { workspaceId, origin } = answer;
      return ledger.change(async () => {
        const row = await toAnswer(answer);
        const event = { chain: workspaceId, type: "login.denied", namespace: null, data: told(row), origin };
        return {
          statements: [db.update(table).set({ state: "denied" }).where(eq(table.id, row.id))],
          events: [event],
          result: row.id,
        };
      });
    },

    /** Those that wait for an answer, oldest first. Their codes are known to who started them alone. */
    async list(): Promise<PendingLogin[]> {
      const rows = await db
        .select()
        .from(table)
        .where(and(eq(table.state, "pending"), gt(table.expiresAt, now())))
        .orderBy(asc(table.createdAt));
      return rows.map(shown);
    },

    /** Removes what has expired, as every start does too. */
    async sweep(): Promise<void> {
      await db.$client.execute(removeExpired(now()));
    },
  };
}

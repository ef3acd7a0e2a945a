import { Elysia } from "elysia";
import type { EventData, EventDraft, Origin } from "../audit/event.ts";
import { AppError } from "../errors.ts";
import { namespaceName, workspaceId, type KeyId, type NamespaceId, type WorkspaceId } from "../ids.ts";
import { unauthenticated, type Caller, type KeyHolder } from "../keys/caller.ts";
import type { Calls, Lease } from "../keys/calls.ts";
import { LOCAL_USER_HEADER } from "../protocol/local-user.ts";
import type { Contexts } from "./http/context.ts";
import type { Limits } from "./http/limits.ts";

export interface AccessParts {
  readonly keys: {
    /** null for a key that is unknown or revoked. */
    authenticate(apiKey: string): Promise<KeyHolder | null>;
    holder(keyId: KeyId): Promise<KeyHolder | null>;
    isRevoked(keyId: KeyId): boolean;
  };
  readonly namespaces: {
    find(workspace: WorkspaceId, name: string): Promise<NamespaceId | null>;
    /** Makes the namespace when it is not there yet. */
    ensure(workspace: WorkspaceId, name: string): Promise<NamespaceId>;
    isEnding(id: NamespaceId): boolean;
  };
  readonly workspaces: { exists(workspace: WorkspaceId): Promise<boolean> };
  readonly calls: Calls;
  readonly contexts: Pick<Contexts, "of">;
  readonly limits: Pick<Limits, "authenticated" | "failed">;
  /** On the admin socket a call without a key is the operator's. Never true on TCP. */
  readonly operator: boolean;
}

/** The namespace of a call, allowed to its caller. It need not exist: a write makes it, a read does not. */
export interface NamespaceCall {
  readonly name: string;
  readonly workspaceId: WorkspaceId;
  /** Names the namespace among all workspaces' before it has an id: for what is counted by namespace. */
  readonly owner: string;
  readonly caller: Caller;
  readonly origin: Origin;
  /** What this call does there, for the audit log. */
  event(type: string, data: EventData): EventDraft;
  /** `id` is null when nothing was ever written there. */
  read<T>(use: (lease: Lease<NamespaceId | null>) => Promise<T>): Promise<T>;
  /** Call it when the request has been checked: it makes the namespace, and a 4xx must leave nothing behind. */
  write<T>(use: (lease: Lease) => Promise<T>): Promise<T>;
}

/** A call for a workspace that belongs to no namespace. */
export interface WorkspaceCall {
  readonly workspaceId: WorkspaceId;
  readonly caller: Caller;
  readonly run: <T>(use: (lease: Lease<null>) => Promise<T>) => Promise<T>;
}

/** A call for something that names itself by an id: whose it is shows only once it is found. */
export interface ByIdCall {
  readonly caller: Caller;
  readonly origin: Origin;
  /** The namespace that it has to be of; null when the call says none and its caller may use any. */
  readonly namespace: string | null;
  /** To be called once it has been found and is the caller's to use. */
  readonly hold: <T>(
    where: {
      readonly workspaceId: WorkspaceId;
      readonly namespaceId: NamespaceId;
      readonly namespace: string;
    },
    use: (lease: Lease) => Promise<T>,
  ) => Promise<T>;
}

export type Access = ReturnType<typeof createAccess>;

const BEARER = /^Bearer +([!-~]+) *$/i;
/** A name, as src/kernel/users.ts makes them. */
const LOCAL_USER = /^[ -~]{1,100}$/;

/** Who may do what. Every route takes its caller from here, before it reads the request's body. */
export function createAccess({
  keys,
  namespaces,
  workspaces,
  calls,
  contexts,
  limits,
  operator,
}: AccessParts) {
  async function caller(request: Request): Promise<Caller> {
    const header = request.headers.get("authorization");
    if (header === null && operator) return { scope: "operator" };
    const key = BEARER.exec(header ?? "")?.[1];
    return recognised(request, key === undefined ? null : await keys.authenticate(key));
  }

  function recognised(request: Request, found: KeyHolder | null): KeyHolder {
    const context = contexts.of(request);
    if (found === null) throw limits.failed(context, unauthenticated());
    context.keyId = found.keyId;
    context.workspaceId = found.workspaceId;
    limits.authenticated(context, found.keyId);
    return found;
  }

  /** Who is to be named for what this request changes; once its caller is known. */
  function origin(request: Request): Origin {
    const { id, address, keyId } = contexts.of(request);
    return {
      keyId,
      localUser: keyId === null && operator ? localUser(request) : null,
      requestId: id,
      address,
    };
  }

  async function keyHolder(request: Request): Promise<KeyHolder> {
    const who = await caller(request);
    // The operator has no key to tell about.
    if (who.scope === "operator") throw unauthenticated();
    return who;
  }

  async function operatorOnly(request: Request): Promise<void> {
    const who = await caller(request);
    if (who.scope !== "operator") {
      throw new AppError("forbidden", "This is the operator's: leave out the Authorization header.");
    }
  }

  /** A call of the operator's that concerns no workspace. */
  async function operatorCall(request: Request): Promise<Pick<WorkspaceCall, "run">> {
    await operatorOnly(request);
    return { run: async (use) => leased(request, null, null, use) };
  }

  /** The caller of an account call for the workspace named in the path. Another workspace's looks like none. */
  async function admin(request: Request, workspaceText: string): Promise<WorkspaceId> {
    const who = await caller(request);
    if (who.scope === "operator") {
      const id = await existing(workspaceText);
      contexts.of(request).workspaceId = id;
      return id;
    }
    if (who.scope !== "admin" || workspaceId.schema.safeParse(workspaceText).data !== who.workspaceId) {
      throw new AppError("forbidden", "This takes an admin key of the workspace named in the path.");
    }
    return who.workspaceId;
  }

  /** The admin behind a form, which holds the key, or what stands for a key that was in an earlier one. */
  async function adminOfForm(
    request: Request,
    proof: { readonly apiKey: string } | { readonly keyId: KeyId },
  ): Promise<KeyHolder> {
    const found = "apiKey" in proof ? keys.authenticate(proof.apiKey) : keys.holder(proof.keyId);
    const who = recognised(request, await found);
    if (who.scope !== "admin") throw new AppError("forbidden", "This takes an admin key: trove-sk-admin-…");
    return who;
  }

  /** The caller, of any scope, of a call for the workspace named in the path. Another workspace's looks like none. */
  async function member(request: Request, workspaceText: string): Promise<WorkspaceCall> {
    const who = await caller(request);
    if (who.scope === "operator") return workspaceCall(request, who, await admin(request, workspaceText));
    if (workspaceId.schema.safeParse(workspaceText).data !== who.workspaceId) {
      throw new AppError("forbidden", "This takes a key of the workspace named in the path.");
    }
    return workspaceCall(request, who, who.workspaceId);
  }

  function workspaceCall(request: Request, who: Caller, workspace: WorkspaceId): WorkspaceCall {
    const keyId = who.scope === "operator" ? null : who.keyId;
    return {
      workspaceId: workspace,
      caller: who,
      run: async (use) => leased(request, keyId, null, use),
    };
  }

  /** The call ends when its key does. */
  async function leased<Id extends NamespaceId | null, T>(
    request: Request,
    keyId: KeyId | null,
    namespaceId: Id,
    use: (lease: Lease<Id>) => Promise<T>,
  ): Promise<T> {
    return calls.run({ keyId, namespaceId, hangUp: request.signal }, (lease) => {
      // It may have ended between its look-up and here; from here on that aborts the call.
      if (keyId !== null && keys.isRevoked(keyId)) throw unauthenticated();
      return use(lease);
    });
  }

  async function byId(request: Request): Promise<ByIdCall> {
    const who = await caller(request);
    const header = request.headers.get("x-namespace");
    const anywhere = who.scope !== "workspace" || (who.lockedNamespace === null && header === null);
    return {
      caller: who,
      origin: origin(request),
      namespace: anywhere ? null : namespaceOf(who, header),
      hold: async ({ workspaceId: workspace, namespaceId, namespace: name }, use) => {
        Object.assign(contexts.of(request), { workspaceId: workspace, namespace: name });
        return leasedIn(request, who, { id: namespaceId, name }, use);
      },
    };
  }

  /** Of which namespace the caller wants a list; null: of all, which is for admins and the operator. */
  async function listing(
    request: Request,
  ): Promise<{ readonly workspaceId: WorkspaceId; readonly namespace: string | null }> {
    const who = await caller(request);
    const header = request.headers.get("x-namespace");
    const workspace = await workspaceOf(who, request);
    const all = who.scope !== "workspace" && header === null;
    // An admin may name one, though it may not use it.
    const as = who.scope === "admin" ? ({ scope: "operator" } as const) : who;
    const name = all ? null : namespaceOf(as, header);
    Object.assign(contexts.of(request), { workspaceId: workspace, namespace: name });
    return { workspaceId: workspace, namespace: name };
  }

  /** Ends with the namespace, too. */
  async function leasedIn<Id extends NamespaceId | null, T>(
    request: Request,
    who: Caller,
    { id, name }: { readonly id: Id; readonly name: string },
    use: (lease: Lease<Id>) => Promise<T>,
  ): Promise<T> {
    const keyId = who.scope === "operator" ? null : who.keyId;
    return leased(request, keyId, id, (lease) => {
      // This too may have ended meanwhile.
      if (id !== null && namespaces.isEnding(id)) throw namespaceEnding(name);
      return use(lease);
    });
  }

  async function namespace(request: Request): Promise<NamespaceCall> {
    const who = await caller(request);
    const name = request.headers.get("x-namespace");
    const workspace = await workspaceOf(who, request);
    const allowedName = namespaceOf(who, name);
    Object.assign(contexts.of(request), { workspaceId: workspace, namespace: allowedName });
    return allowed(request, who, workspace, allowedName);
  }

  async function workspaceOf(who: Caller, request: Request): Promise<WorkspaceId> {
    if (who.scope !== "operator") return who.workspaceId;
    return existing(request.headers.get("x-workspace") ?? "");
  }

  /** The workspace that the operator names. */
  async function existing(text: string): Promise<WorkspaceId> {
    const parsed = workspaceId.schema.safeParse(text);
    if (!parsed.success || !(await workspaces.exists(parsed.data))) throw noWorkspace(text);
    return parsed.data;
  }

  function allowed(request: Request, who: Caller, workspace: WorkspaceId, name: string): NamespaceCall {
    const from = origin(request);
    return {
      name,
      workspaceId: workspace,
      // No name holds the space that parts the two.
      owner: `${workspace} ${name}`,
      caller: who,
      origin: from,
      event: (type, data) => ({ chain: workspace, type, namespace: name, data, origin: from }),
      read: async (use) => {
        const id = await namespaces.find(workspace, name);
        return leasedIn(request, who, { id, name }, use);
      },
      write: async (use) => {
        // Nor is one made by a key that has ended while the request came.
        if (who.scope !== "operator" && keys.isRevoked(who.keyId)) throw unauthenticated();
        const id = await namespaces.ensure(workspace, name);
        return leasedIn(request, who, { id, name }, use);
      },
    };
  }

  return {
    keyHolder,
    operatorOnly,
    admin,
    adminOfForm,
    namespace,
    /** For what every key may know. */
    anyone: async (request: Request): Promise<void> => void (await caller(request)),
    byId,
    listing,
    origin,
    operatorCall,
    member,
  };
}

/** A plugin for the routes of a namespace: their handlers get `namespace`. */
export function namespaceCalls(access: Access) {
  return new Elysia().resolve({ as: "scoped" }, async ({ request }) => ({
    namespace: await access.namespace(request),
  }));
}

/** Which namespace the caller means, if it may. For a locked key nothing here depends on what exists. */
function namespaceOf(who: Caller, header: string | null): string {
  if (who.scope === "admin") {
    throw new AppError("forbidden", "An admin key manages keys; use a workspace key for files and commands.");
  }
  const locked = who.scope === "operator" ? null : who.lockedNamespace;
  if (locked !== null) {
    if (header !== null && header !== locked) {
      throw new AppError("forbidden", "This key is locked to one namespace, and X-Namespace names another.");
    }
    return locked;
  }
  if (header === null) {
    throw new AppError("bad_input", "Name the namespace in the X-Namespace header.");
  }
  const name = namespaceName.safeParse(header);
  if (!name.success) throw new AppError("bad_input", `X-Namespace: ${name.error.issues[0]?.message ?? ""}`);
  return name.data;
}

/** Believed, because the admin socket's permissions are: whoever may use it could also name somebody else. */
function localUser(request: Request): string {
  const name = request.headers.get(LOCAL_USER_HEADER) ?? "";
  return LOCAL_USER.test(name) ? name : "unknown";
}

/** For a call that meets the deletion of its namespace. */
function namespaceEnding(name: string): AppError {
  return new AppError("conflict", `The namespace "${name}" is being deleted; try again when that is done.`);
}

function noWorkspace(id: string): AppError {
  return new AppError("not_found", `There is no workspace "${id}"; see cofferdam workspace list.`);
}

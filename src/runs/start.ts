import { createHash } from "node:crypto";
import { and, eq, isNull } from "drizzle-orm";
import type { EventData, EventDraft } from "../audit/event.ts";
import type { Database } from "../db/open.ts";
import { keys, namespaces } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import { runId, type KeyId, type NamespaceId, type RunId, type WorkspaceId } from "../ids.ts";
import { unauthenticated } from "../keys/caller.ts";
import { narrowToDay } from "./day.ts";
import { originOf } from "./facts.ts";
import { checkEnvironment } from "./environment.ts";
import { makeToken, sealGiven, type Given } from "./given.ts";
import { checkLaunch, type Adapters } from "./launch.ts";
import type { RunGrants } from "./grants.ts";
import type { LifeParts } from "./parts.ts";
import type { Policy } from "./policy.ts";
import type { RunRequest } from "./request.ts";
import type { Resolved } from "./resolve.ts";
import type { Run, RunSpec } from "./run.ts";

export interface StartingParts extends Pick<LifeParts, "rows" | "ledger" | "secrets" | "config"> {
  readonly db: Database;
  readonly adapters: Adapters;
  readonly policies: { of(workspace: WorkspaceId): Promise<Policy> };
  readonly resolve: (
    where: Pick<StartCall, "workspaceId" | "namespace">,
    request: RunRequest,
    policy: Policy,
  ) => Promise<Resolved>;
}

/** Who starts a run, and where. */
export interface StartCall {
  readonly workspaceId: WorkspaceId;
  readonly namespaceId: NamespaceId;
  readonly namespace: string;
  readonly keyId: KeyId | null;
  /** Whether it is one of those that try the walls. */
  readonly ofProof?: boolean;
  readonly event: (type: string, data: EventData) => EventDraft;
}

/** What a request comes to. */
export interface Wanted {
  readonly policy: Policy;
  readonly resolved: Resolved;
  readonly given: Given;
}

/** Of a command or prompt, in its row and in its event. */
const SHOWN = 4096;
const MAX_GRANTS = 32 * 1024;

/** From a request to the row of a run. */
export function createStarting(parts: StartingParts) {
  const { db, rows, ledger, secrets, config } = parts;

  /** Over the committed state: whoever revokes a key or deletes a namespace meanwhile finds the run, or it is none. */
  async function checkStanding({ keyId, namespaceId, namespace }: StartCall): Promise<void> {
    const [live] = await db
      .select({ id: namespaces.id })
      .from(namespaces)
      .where(and(eq(namespaces.id, namespaceId), isNull(namespaces.deletingAt)));
    if (live === undefined) {
      throw new AppError(
        "conflict",
        `The namespace "${namespace}" is being deleted; try again when that is done.`,
      );
    }
    if (keyId === null) return;
    const works = and(eq(keys.id, keyId), isNull(keys.revokedAt));
    const [key] = await db.select({ id: keys.id }).from(keys).where(works);
    if (key === undefined) throw unauthenticated();
  }

  return {
    /** Throws AppError with the field that is wrong, or beyond what the workspace's policy leaves. */
    async check(where: Pick<StartCall, "workspaceId" | "namespace">, request: RunRequest): Promise<Wanted> {
      checkEnvironment(request.env ?? {});
      const policy = await parts.policies.of(where.workspaceId);
      const resolved = await parts.resolve(where, request, policy);
      checkSize(resolved.grants);
      const given = {
        token: makeToken(),
        text: textOf(request),
        env: request.env ?? {},
        stdin: request.stdin ?? null,
      };
      checkLaunch({
        run: runId.make(),
        spec: specOf(request),
        ...resolved,
        given,
        port: config().gateway_port,
        adapters: parts.adapters,
      });
      return { policy, resolved, given };
    },

    /** `spare`: whose sandbox boots already, or has; null where none does. */
    async insert(call: StartCall, request: RunRequest, wanted: Wanted, spare: RunId | null): Promise<Run> {
      const { policy, resolved, given } = wanted;
      const { workspaceId, namespaceId, namespace, keyId } = call;
      const id = spare ?? runId.make();
      const createdAt = Date.now();
      return ledger.change(async () => {
        await checkStanding(call);
        const day = { db, now: createdAt };
        const grants = await narrowToDay(day, workspaceId, policy.usd_per_day, resolved.grants);
        const row = {
          ...FRESH,
          id,
          workspaceId,
          namespaceId,
          keyId,
          label: request.label ?? null,
          request: specOf(request),
          grants,
          limits: resolved.limits,
          createdAt,
          given: sealGiven(secrets, given, id),
        };
        const created = call.event("run.created", createdData(id, request, { ...resolved, grants }));
        const origin = originOf(created.origin, ledger.head(workspaceId));
        return {
          statements: [rows.inserting({ ...row, origin })],
          events: [created],
          result: { ...row, origin, namespace },
        };
      });
    },
  };
}

/** Of a run that nothing was done for yet. */
const FRESH = {
  status: "queued",
  startedAt: null,
  finishedAt: null,
  deadline: null,
  exitCode: null,
  error: null,
  stop: null,
  bootId: null,
  fate: null,
  settled: false,
  network: null,
  timings: {},
  usage: {},
  denials: [],
  usdNano: 0,
  gatewaySeq: 0,
  worktree: "none",
  base: null,
  result: null,
  receipt: null,
  madeOf: null,
} as const;

const textOf = ({ command, agent }: RunRequest): string => command ?? agent?.prompt ?? "";

const beginningOf = (text: string): string => text.slice(0, SHOWN).toWellFormed();

/** They stand in the row, the receipt and an event, and go to the gateway in one line. */
function checkSize(grants: RunGrants): void {
  if (JSON.stringify(grants).length <= MAX_GRANTS) return;
  throw new AppError(
    "invalid",
    `The fields "llm", "git" and "egress" have more than ${MAX_GRANTS / 1024} KiB together; name fewer repositories, branches or hosts.`,
  );
}

function specOf(request: RunRequest): RunSpec {
  const { command, agent, stdin, stdin_open, env, worktree, on_success } = request;
  return {
    command: command === undefined ? null : beginningOf(command),
    agent: agent === undefined ? null : { ...agent, prompt: beginningOf(agent.prompt) },
    text_sha256: createHash("sha256").update(textOf(request)).digest("hex"),
    stdin: stdin !== undefined ? "text" : stdin_open === true ? "open" : "none",
    env: Object.keys(env ?? {}),
    worktree,
    on_success,
  };
}

/** Whole numbers alone, since others have no canonical form. */
function createdData(id: RunId, request: RunRequest, { grants, limits }: Resolved): EventData {
  const { command, agent, label, worktree, on_success } = request;
  const { cpus, ...whole } = limits;
  return {
    run_id: id,
    label: label ?? null,
    command: command === undefined ? null : beginningOf(command),
    agent: agent?.kind ?? null,
    worktree: { ...worktree },
    on_success,
    llm: grants.llm.map(({ credential, models, max_usd_nano }) => ({
      credential_id: credential,
      models: models === null ? null : [...models],
      max_usd_nano,
    })),
    git: (grants.git?.repositories ?? []).map(({ name, access, branches }) => ({
      name,
      access,
      branches: [...branches],
    })),
    egress: (grants.egress?.allow ?? []).map(({ host, port }) => `${host}:${port}`),
    direct: grants.direct.map(({ address, port }) => `${address}:${port}`),
    limits: { ...whole, cpus_milli: Math.round(cpus * 1000) },
  };
}

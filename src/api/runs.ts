import { Elysia } from "elysia";
import { z } from "zod";
import { AppError, foreseen } from "../errors.ts";
import { runId, type NamespaceId, type WorkspaceId } from "../ids.ts";
import { PROOF_HEADER } from "../protocol/proof.ts";
import { runRequest, type RunRequest } from "../runs/request.ts";
import type { RunPlace, RunRows, RunScope } from "../runs/rows.ts";
import { RUN_STATUSES, type RunStatus } from "../runs/run.ts";
import type { StartCall } from "../runs/start.ts";
import type { Runs } from "../runs/runs.ts";
import type { SnapshotRows } from "../snapshots/rows.ts";
import type { Access, NamespaceCall } from "./auth.ts";
import { readQuery } from "./events/query.ts";
import { readJson } from "./http/body.ts";
import { createLargeBodies } from "./http/large-bodies.ts";
import type { RunCalls } from "./run-call.ts";
import { shownRun } from "./run-shown.ts";

/** A command or prompt of 128 KiB, its stdin of a MiB and an environment, with every byte spelled as an escape. */
const MAX_BODY_BYTES = 16 * 1024 * 1024;
/** Of one namespace's bodies together. */
const LARGE_BODIES_BYTES = 4 * MAX_BODY_BYTES;
const DEFAULT_LIMIT = 50;
const MAX_LIMIT = 200;

export interface RunRoutesParts {
  readonly access: Access;
  readonly calls: RunCalls;
  readonly runs: Pick<Runs, "check" | "start" | "cancel">;
  readonly rows: Pick<RunRows, "page">;
  readonly namespaces: { find(workspace: WorkspaceId, name: string): Promise<NamespaceId | null> };
  readonly snapshots: Pick<SnapshotRows, "find">;
}

/** Starting runs, looking at them, and ending them. */
export function runRoutes({ access, calls, runs, rows, namespaces, snapshots }: RunRoutesParts) {
  const largeBodies = createLargeBodies(LARGE_BODIES_BYTES);

  async function start(request: Request, namespace: NamespaceCall) {
    const { workspaceId, name, caller, owner } = namespace;
    const read = async () => readJson(request, runRequest, MAX_BODY_BYTES);
    const wish = await largeBodies.hold(owner, request, MAX_BODY_BYTES, read);
    const wanted = await runs.check({ workspaceId, namespace: name }, wish);
    await checkSource(wish, namespace);
    const keyId = caller.scope === "operator" ? null : caller.keyId;
    const ofProof = caller.scope === "operator" && request.headers.has(PROOF_HEADER);
    const event: StartCall["event"] = (type, data) => namespace.event(type, data);
    // Not thrown within: a call whose key ends is otherwise told that it may have done something, and this one has not.
    const [outcome] = await namespace.write(async ({ id }) =>
      Promise.allSettled([
        runs.start({ workspaceId, namespaceId: id, namespace: name, keyId, ofProof, event }, wish, wanted),
      ]),
    );
    if (outcome.status === "rejected") throw outcome.reason;
    return shownRun(outcome.value);
  }

  /** Before the namespace is made, which a refused call must not do. */
  async function checkSource({ worktree }: RunRequest, namespace: NamespaceCall): Promise<void> {
    if (worktree.from !== "snapshot") return;
    const { snapshot_id: id } = worktree;
    const [found] = await namespace.read(async (lease) => Promise.allSettled([snapshots.find(lease.id, id)]));
    if (found.status === "fulfilled") return;
    if (foreseen(found.reason)?.code !== "not_found") throw found.reason;
    throw new AppError(
      "invalid",
      `The field "worktree.snapshot_id": the namespace "${namespace.name}" has no snapshot ${id}.`,
    );
  }

  async function scopeOf(request: Request): Promise<RunScope> {
    const { workspaceId, namespace } = await access.listing(request);
    if (namespace === null) return { workspaceId };
    return { workspaceId, namespaceId: await namespaces.find(workspaceId, namespace) };
  }

  async function list(request: Request) {
    const scope = await scopeOf(request);
    const { status, limit, cursor } = readQuery(request, listQuery);
    const found = await rows.page(scope, { statuses: status, before: cursor ?? null, limit: limit + 1 });
    const page = found.slice(0, limit);
    const last = page.at(-1);
    const more = found.length > limit && last !== undefined;
    return { runs: page.map(shownRun), next_cursor: more ? cursorOf(last) : null };
  }

  return new Elysia({ prefix: "/v1/runs" })
    .post(
      "",
      async ({ request, set }) => {
        const run = await start(request, await access.namespace(request));
        set.status = 201;
        return run;
      },
      { parse: "none" },
    )
    .get("", async ({ request }) => list(request))
    .get("/:id", async ({ request, params }) => shownRun((await calls.of(request, params.id)).run))
    .post(
      "/:id/cancel",
      async ({ request, params }) => {
        const { run, origin, hold } = await calls.of(request, params.id, { admin: true });
        return hold(async () => shownRun(await runs.cancel(run, origin)));
      },
      { parse: "none" },
    );
}

const STATUS: ReadonlySet<string> = new Set(RUN_STATUSES);

const listQuery = z.object({
  /** Some, parted by commas; all unless given. */
  status: z
    .string()
    .transform((text, context) => {
      const wanted = text.split(",").map((one) => one.trim());
      const slip = wanted.find((one) => !STATUS.has(one));
      if (slip === undefined) return wanted as RunStatus[];
      context.addIssue(
        `There is no status ${JSON.stringify(slip.slice(0, 80))}; there are ${RUN_STATUSES.join(", ")}.`,
      );
      return z.NEVER;
    })
    .default([]),
  limit: z
    .string()
    .transform((text, context) => {
      const number = /^\d{1,9}$/.test(text) ? Number(text) : 0;
      if (number >= 1 && number <= MAX_LIMIT) return number;
      context.addIssue(`limit has to be a whole number from 1 to ${MAX_LIMIT}.`);
      return z.NEVER;
    })
    .default(DEFAULT_LIMIT),
  cursor: z
    .string()
    .transform((text, context) => placeOf(text) ?? (context.addIssue(NO_CURSOR), z.NEVER))
    .optional(),
});

const NO_CURSOR = "cursor has to be a next_cursor of an earlier answer, unchanged.";

/** It gives no rights: which runs there are at all is decided anew for each page. */
function cursorOf({ createdAt, id }: RunPlace): string {
  return Buffer.from(`1.${createdAt}.${id}`).toString("base64url");
}

function placeOf(cursor: string): RunPlace | null {
  const text = Buffer.from(cursor, "base64url").toString();
  const [, time, idText] = /^1\.(\d{1,15})\.(run-[a-z2-7]+)$/.exec(text) ?? [];
  const id = runId.schema.safeParse(idText);
  return time === undefined || !id.success ? null : { createdAt: Number(time), id: id.data };
}

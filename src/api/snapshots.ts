import { Elysia } from "elysia";
import { z } from "zod";
import type { EventData } from "../audit/event.ts";
import type { Lease } from "../keys/calls.ts";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import { noSnapshot, type Snapshot } from "../snapshots/rows.ts";
import type { Snapshots } from "../snapshots/snapshots.ts";
import { gzipped } from "./archive.ts";
import { createDownloadTurns } from "./download-turns.ts";
import { namespaceCalls, type Access, type NamespaceCall } from "./auth.ts";
import { label, readJson } from "./http/body.ts";
import { errorResponse } from "./http/errors.ts";
import { timestamp } from "./http/time.ts";

/** Downloads at once: each has a few blobs of 4 MiB in memory for as long as its client takes. */
const DOWNLOADS = {
  limits: { concurrency: 16, perNamespace: 2, queue: 100, maxWaitMs: 10_000 },
  bytesPerSecond: 64 * 1024,
  windowMs: 4_000,
};

const createBody = z.object({ label: label.nullish() });

export interface SnapshotRoutesParts {
  readonly access: Access;
  readonly snapshots: Pick<Snapshots, "list" | "create" | "restore" | "remove" | "download">;
}

/** The snapshot calls of a namespace. */
export function snapshotRoutes({ access, snapshots }: SnapshotRoutesParts) {
  const downloads = createDownloadTurns(DOWNLOADS);

  async function download(request: Request, namespace: NamespaceCall, id: string): Promise<Response> {
    const turn = await downloads.admit(namespace.owner, request.signal);
    let handedOver = false;
    try {
      return await namespace.read(async (lease) => {
        const { snapshot, tar, end } = await snapshots.download(lease.id, id);
        const headers = {
          "content-type": "application/gzip",
          "content-disposition": `attachment; filename="${namespace.name}-${snapshot.id}.tar.gz"`,
          "cache-control": "private, no-store",
        };
        if (request.method === "HEAD") {
          end();
          return new Response(null, { headers });
        }
        const { body, done } = gzipped(tar, AbortSignal.any([lease.signal, turn.signal]), turn.took);
        handedOver = true;
        lease.extend(done.finally(end).finally(turn.release));
        return new Response(body, { headers });
      });
    } finally {
      if (!handedOver) turn.release();
    }
  }

  return new Elysia({ prefix: "/v1/snapshots" })
    .use(namespaceCalls(access))
    .post(
      "",
      async ({ request, namespace }) => {
        const { label } = await optionalBody(request);
        return namespace.write(async (lease) => {
          const made = await snapshots.create(callOf(namespace, lease), label ?? null);
          return shown(made, namespace.name);
        });
      },
      { parse: "none" },
    )
    .get("", async ({ namespace }) =>
      namespace.read(async ({ id }) => {
        const found = id === null ? [] : await snapshots.list(id);
        return { snapshots: found.map((one) => shown(one, namespace.name)) };
      }),
    )
    .post(
      "/:id/restore",
      async ({ namespace, params }) =>
        namespace.read(async (lease) => {
          const call = existing(namespace, lease, params.id);
          return { files_restored: await snapshots.restore(call, params.id) };
        }),
      { parse: "none" },
    )
    .delete(
      "/:id",
      async ({ namespace, params }) =>
        namespace.read(async (lease) => {
          await snapshots.remove(existing(namespace, lease, params.id), params.id);
          return { deleted: params.id };
        }),
      { parse: "none" },
    )
    .all("/:id/download", async ({ request, namespace, params }) => {
      // Not .get: Elysia answers HEAD by a GET whose body it reads to the end to learn its length.
      if (request.method === "GET" || request.method === "HEAD")
        return download(request, namespace, params.id);
      const detail = `${request.method} does not work here; use GET, HEAD.`;
      return errorResponse(new AppError("method_not_allowed", detail), { allow: "GET, HEAD" });
    });
}

/** Without a body there is no label either. */
async function optionalBody(request: Request): Promise<z.infer<typeof createBody>> {
  const empty = request.body === null || request.headers.get("content-length") === "0";
  return empty ? {} : readJson(request, createBody);
}

/** The published SDK hangs up after a minute, and a large namespace takes longer: what was begun goes on. */
function callOf(namespace: NamespaceCall, { id, ended }: Lease) {
  return {
    namespaceId: id,
    workspaceId: namespace.workspaceId,
    signal: ended,
    event: (type: string, data: EventData) => namespace.event(type, data),
  };
}

function existing(namespace: NamespaceCall, lease: Lease<NamespaceId | null>, id: string) {
  if (lease.id === null) throw noSnapshot(id);
  return callOf(namespace, { ...lease, id: lease.id });
}

function shown(snapshot: Snapshot, namespace: string) {
  return {
    snapshot_id: snapshot.id,
    namespace,
    label: snapshot.label,
    size_bytes: snapshot.sizeBytes,
    stored_bytes: snapshot.storedBytes,
    file_count: snapshot.fileCount,
    skipped: snapshot.skipped,
    created_at: timestamp(snapshot.createdAt),
  };
}

import { Elysia } from "elysia";
import { z } from "zod";
import type { Announce } from "../audit/announce.ts";
import type { Ledger } from "../audit/ledger.ts";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import { createAdmission } from "../sandbox/admission.ts";
import { parsePath, parseUrlPath, refusedPath, type WorkspacePath } from "../volumes/path.ts";
import type { Volumes } from "../volumes/volumes.ts";
import type { WriteSource, Written } from "../volumes/write.ts";
import { namespaceCalls, type Access, type NamespaceCall } from "./auth.ts";
import { errorResponse } from "./http/errors.ts";
import { readJson, text } from "./http/body.ts";
import { download } from "./download.ts";
import { createLargeBodies } from "./http/large-bodies.ts";

/** Listings at once: they share api's one thread with everybody's calls, and a tree of links is slow to walk. */
const WALKS = { concurrency: 4, perNamespace: 2, queue: 1000, maxWaitMs: 30_000 };

export interface FileRoutesParts {
  readonly access: Access;
  readonly volumes: Volumes;
  readonly ledger: Pick<Ledger, "begin">;
  /** The longest path, in bytes. */
  readonly maxPathBytes: number;
}

/** JSON is held in memory, several times over, while it is parsed; larger files go through PUT. */
const MAX_TEXT_BODY_BYTES = 32 * 1024 * 1024;

/** Of one namespace's bodies together: four of the longest. */
const LARGE_BODIES_BYTES = 4 * MAX_TEXT_BODY_BYTES;

const writeBody = z.object({ path: z.string(), content: text });
const deleteBody = z.object({ path: z.string() });
const RECURSIVE = new Map([
  ["true", true],
  ["1", true],
  ["false", false],
  ["0", false],
]);

/** The file calls of a namespace. */
export function fileRoutes({ access, volumes, ledger, maxPathBytes }: FileRoutesParts) {
  const largeBodies = createLargeBodies(LARGE_BODIES_BYTES);
  const walks = createAdmission(() => WALKS);
  const announce =
    (type: "file.written" | "file.deleted", namespace: NamespaceCall, namespaceId: NamespaceId): Announce =>
    async (data) =>
      ledger.begin({ ...namespace.event(type, data), namespaceId });
  const pathOf = (input: string) => parsePath(input, maxPathBytes);

  async function write(
    namespace: NamespaceCall,
    path: WorkspacePath,
    sizeBytes: number | undefined,
    chunksUntil: (signal: AbortSignal) => WriteSource["chunks"],
  ) {
    volumes.checkWrite(path, sizeBytes ?? 0);
    return namespace.write(async ({ id, signal }) => {
      const source = { chunks: chunksUntil(signal), sizeBytes, signal };
      return written(await volumes.open(id).write(path, source, announce("file.written", namespace, id)));
    });
  }

  async function read(request: Request, namespace: NamespaceCall): Promise<Response> {
    const path = urlPath(request, maxPathBytes);
    return namespace.read(async (lease) => download(await volumes.open(lease.id).open(path), request, lease));
  }

  return new Elysia()
    .use(namespaceCalls(access))
    .post(
      "/write",
      async ({ request, namespace }) =>
        largeBodies.hold(namespace.owner, request, MAX_TEXT_BODY_BYTES, async () => {
          const body = await readJson(request, writeBody, MAX_TEXT_BODY_BYTES);
          const bytes = new TextEncoder().encode(body.content);
          return write(namespace, pathOf(body.path), bytes.length, () => [bytes]);
        }),
      { parse: "none" },
    )
    .put(
      "/files/*",
      async ({ request, namespace }) => {
        const announced = request.headers.get("content-length");
        const sizeBytes = announced === null ? undefined : Number(announced);
        const path = urlPath(request, maxPathBytes);
        return write(namespace, path, sizeBytes, (signal) => bodyOf(request, signal));
      },
      { parse: "none" },
    )
    .all("/files/*", async ({ request, namespace }) => {
      // Not .get and .head: Elysia answers HEAD by a GET whose body it reads to the end to learn its length.
      if (request.method === "GET" || request.method === "HEAD") return read(request, namespace);
      const detail = `${request.method} does not work here; use GET, HEAD, PUT.`;
      return errorResponse(new AppError("method_not_allowed", detail), { allow: "GET, HEAD, PUT" });
    })
    .post(
      "/delete",
      async ({ request, namespace }) => {
        const path = pathOf((await readJson(request, deleteBody)).path);
        return namespace.read(async ({ id }) => {
          const telling = id === null ? nothingThere : announce("file.deleted", namespace, id);
          await volumes.open(id).delete(path, telling);
          return { deleted: path.text };
        });
      },
      { parse: "none" },
    )
    .get("/v1/files", async ({ request, namespace }) => {
      const query = queryOf(request);
      const path = pathOf(query.get("path") ?? "workspace/");
      const recursive = RECURSIVE.get(query.get("recursive")?.toLowerCase() ?? "false");
      if (recursive === undefined) throw new AppError("invalid", "recursive has to be true or false.");
      const release = await walks.admit(namespace.owner, request.signal);
      try {
        return await namespace.read(async ({ id, signal }) => volumes.open(id).list(path, recursive, signal));
      } finally {
        release();
      }
    })
    .get("/v1/files/content", async ({ request, namespace }) => {
      const input = queryOf(request).get("path");
      if (input === undefined) throw new AppError("invalid", "Name the file: ?path=workspace/…");
      const path = pathOf(input);
      return namespace.read(async ({ id }) => volumes.open(id).content(path));
    });
}

/** A namespace that does not exist has nothing to announce the deletion of. */
const nothingThere: Announce = async () => {
  throw new AppError("not_found", "The namespace has no files.");
};

/** The body as it arrives. An abort ends it too where the client is silent. */
async function* bodyOf(request: Request, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const reader = request.body?.getReader();
  if (reader === undefined) return;
  // A cancelled body reads as ended. Where it broke off already there is nothing left to cancel.
  const cancel = () => void reader.cancel().catch(() => {});
  if (signal.aborted) cancel();
  else signal.addEventListener("abort", cancel, { once: true });
  try {
    for (;;) {
      const { done, value } = await reader.read();
      signal.throwIfAborted();
      if (done) return;
      yield value;
    }
  } finally {
    signal.removeEventListener("abort", cancel);
    cancel();
  }
}

function written({ path, sizeBytes }: Written): { path: string; size_bytes: number } {
  return { path, size_bytes: sizeBytes };
}

/** What follows `/files/`, with the query: see parseUrlPath. */
function urlPath(request: Request, maxPathBytes: number): WorkspacePath {
  const { pathname, search } = new URL(request.url);
  return parseUrlPath(pathname.slice("/files/".length) + search, maxPathBytes);
}

/** The query, of which each part has to be UTF-8: URLSearchParams would make another name of what isn't. */
function queryOf(request: Request): Map<string, string> {
  const parts = new URL(request.url).search.slice(1).split("&");
  try {
    return new Map(
      parts.map((part) => {
        const [name = "", ...value] = part.replaceAll("+", " ").split("=");
        return [decodeURIComponent(name), decodeURIComponent(value.join("="))];
      }),
    );
  } catch (error) {
    throw refusedPath(error);
  }
}

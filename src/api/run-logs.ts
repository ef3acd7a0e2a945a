import { Elysia } from "elysia";
import { z } from "zod";
import { AppError } from "../errors.ts";
import type { KeyId, NamespaceId, RunId } from "../ids.ts";
import type { Lease } from "../keys/calls.ts";
import type { Log } from "../log.ts";
import { StdinFull, type RunInput } from "../runs/input.ts";
import type { Step } from "../runs/output/follow.ts";
import type { RunOutput } from "../runs/output/output.ts";
import { namespaceCalls, type Access, type NamespaceCall } from "./auth.ts";
import { readQuery } from "./events/query.ts";
import { readBounded } from "./http/body.ts";
import type { Contexts } from "./http/context.ts";
import { errorResponse } from "./http/errors.ts";
import { commentBlock, jsonBlock, SSE_HEADERS } from "./http/sse.ts";
import { createStreams } from "./http/streams.ts";
import { timestamp } from "./http/time.ts";

/** What a run's output and input depend on. */
export interface LoggedRun {
  readonly id: RunId;
  readonly state: "waiting" | "running" | "over";
  /** It was made with stdin_open. */
  readonly stdinOpen: boolean;
}

export interface RunLogsParts {
  readonly output: Pick<RunOutput, "follow" | "dropped">;
  readonly input: Pick<RunInput, "write" | "eof">;
  /** Throws not_found for what the namespace does not have; null is one that never was. */
  readonly find: (namespaceId: NamespaceId | null, id: string) => Promise<LoggedRun>;
  readonly log: Log;
}

/** Streams at once: of one key, of one workspace, of all. Each has one batch of output in memory at most. */
const LIMITS = { perKey: 64, perOwner: 256, all: 1024 };
/** Of one call; longer input comes by several. */
const MAX_STDIN_BYTES = 1024 * 1024;
/** A call for a run that is about to begin waits so long. */
const BEGIN_PATIENCE_MS = 10_000;
const BEGIN_LOOK_MS = 100;

const flag = z.enum(["", "true", "1", "false", "0"], "follow and eof have to be true or false.");
const isSet = (value: z.infer<typeof flag> | undefined): boolean =>
  value !== undefined && value !== "false" && value !== "0";
const seq = z.string().regex(/^\d{1,15}$/, "since has to be the seq of an entry, a whole number.");
const logsQuery = z.object({ follow: flag.optional(), since: seq.optional() });
const stdinQuery = z.object({ eof: flag.optional() });

export type RunLogs = ReturnType<typeof createRunLogs>;

/** What runs write, as streams, and what they read. */
export function createRunLogs({ output, input, find, log }: RunLogsParts) {
  const streams = createStreams({ what: "log streams", limits: LIMITS, log });

  /** It may have been made just now. */
  async function begun(namespaceId: NamespaceId | null, id: string, signal: AbortSignal): Promise<LoggedRun> {
    const deadline = Date.now() + BEGIN_PATIENCE_MS;
    for (;;) {
      const run = await find(namespaceId, id);
      if (!run.stdinOpen) {
        throw new AppError("conflict", "Only a run that was made with stdin_open is fed by calls.");
      }
      if (run.state === "over") throw new AppError("conflict", "The run is over.");
      if (run.state === "running") return run;
      if (Date.now() > deadline) {
        throw new AppError("unavailable", "The run has not begun yet.", { retryAfterS: 5 });
      }
      await Bun.sleep(BEGIN_LOOK_MS);
      signal.throwIfAborted();
    }
  }

  return {
    find,

    /** `asBytes`: as they were written, instead of as server-sent events. */
    async open(
      call: { readonly namespace: NamespaceCall; readonly keyId: KeyId | null; readonly signal: AbortSignal },
      namespaceId: NamespaceId | null,
      run: RunId,
      read: { readonly after: number; readonly live: boolean; readonly asBytes: boolean },
    ) {
      const { after, live, asBytes } = read;
      const headers = asBytes ? bytesHeaders(await output.dropped(run)) : SSE_HEADERS;
      const isOver = async () => (await find(namespaceId, run)).state === "over";
      const its = { keyId: call.keyId, owner: call.namespace.workspaceId, headers, signal: call.signal };
      return streams.open(its, async function* (over) {
        if (!asBytes) yield commentBlock("connected");
        for await (const step of output.follow(run, { after, live }, isOver, over)) {
          const bytes = asBytes ? plainBytes(step) : sseBytes(step);
          if (bytes.length > 0) yield bytes;
        }
      });
    },

    async feed(
      namespaceId: NamespaceId | null,
      id: string,
      bytes: Uint8Array,
      eof: boolean,
      signal: AbortSignal,
    ) {
      const run = await begun(namespaceId, id, signal);
      await input.write(run.id, bytes);
      if (eof) await input.eof(run.id);
      return { written: bytes.length, eof };
    },

    close: () => streams.close(),
  };
}

export interface RunLogRoutesParts {
  readonly access: Access;
  readonly contexts: Pick<Contexts, "of">;
  readonly logs: RunLogs;
}

export function runLogRoutes({ access, contexts, logs }: RunLogRoutesParts) {
  async function read(request: Request, namespace: NamespaceCall, id: string): Promise<Response> {
    const query = readQuery(request, logsQuery);
    const asBytes = wantsBytes(request.headers.get("accept") ?? "");
    const after = afterOf(request, query.since);
    return namespace.read(async (lease) => {
      const run = await logs.find(lease.id, id);
      if (request.method === "HEAD") {
        return new Response(null, { headers: asBytes ? bytesHeaders(0) : SSE_HEADERS });
      }
      const context = contexts.of(request);
      const { keyId } = context;
      // A run that says nothing is no reason to end a stream that can't say so.
      context.silent = true;
      const call = { namespace, keyId, signal: lease.signal };
      const live = isSet(query.follow);
      const { response, done } = await logs.open(call, lease.id, run.id, { after, live, asBytes });
      lease.extend(done);
      return response;
    });
  }

  return new Elysia({ prefix: "/v1/runs/:id" })
    .use(namespaceCalls(access))
    .all("/logs", async ({ request, namespace, params }) => {
      // Not .get: Elysia answers HEAD by a GET whose body it reads to the end to learn its length.
      if (request.method === "GET" || request.method === "HEAD") return read(request, namespace, params.id);
      const detail = `${request.method} does not work here; use GET, HEAD.`;
      return errorResponse(new AppError("method_not_allowed", detail), { allow: "GET, HEAD" });
    })
    .post(
      "/stdin",
      async ({ request, namespace, params }) => {
        const eof = isSet(readQuery(request, stdinQuery).eof);
        const bytes = await readBounded(request, MAX_STDIN_BYTES);
        return namespace.read(async (lease: Lease<NamespaceId | null>) => {
          try {
            return await logs.feed(lease.id, params.id, bytes, eof, lease.signal);
          } catch (error) {
            if (!(error instanceof StdinFull)) throw error;
            const { message: detail, retryAfterS, written } = error;
            const headers = { "retry-after": String(retryAfterS) };
            return Response.json({ detail, written }, { status: 503, headers });
          }
        });
      },
      { parse: "none" },
    );
}

/** A client that comes back says what it had last, and its URL is still that of its first call. */
function afterOf(request: Request, since: string | undefined): number {
  const last = request.headers.get("last-event-id") ?? "";
  if (last === "") return Number(since ?? 0);
  const parsed = seq.safeParse(last);
  if (!parsed.success) throw new AppError("invalid", "Last-Event-ID has to be the id of an entry.");
  return Number(parsed.data);
}

function wantsBytes(accept: string): boolean {
  return /\btext\/plain\b/i.test(accept) && !/\btext\/event-stream\b/i.test(accept);
}

function bytesHeaders(dropped: number): Record<string, string> {
  return {
    "content-type": "text/plain; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
    // What a run wrote must never run as a page of this server's.
    "content-security-policy": "sandbox; default-src 'none'",
    "x-content-type-options": "nosniff",
    ...(dropped === 0 ? {} : { "x-dropped-bytes": String(dropped) }),
  };
}

const NO_BYTES = new Uint8Array();

function plainBytes(step: Step): Uint8Array {
  if (step.kind !== "entries") return NO_BYTES;
  return Buffer.concat(step.entries.filter(({ stream }) => stream !== "status").map(({ bytes }) => bytes));
}

/** A byte order mark is part of the text; what is not UTF-8 becomes U+FFFD. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

function sseBytes(step: Step): Uint8Array {
  if (step.kind === "idle") return commentBlock("heartbeat");
  if (step.kind === "entries") {
    const blocks = step.entries.map(({ seq, at, stream, bytes }) =>
      block(stream, { seq, at: timestamp(at), text: decoder.decode(bytes) }),
    );
    return Buffer.concat(blocks);
  }
  const text = `Output up to here is not kept any more: ${step.bytes} bytes since the run began.`;
  return block("status", { seq: step.seq, at: timestamp(Date.now()), text, dropped_bytes: step.bytes });
}

function block(
  event: string,
  data: { readonly seq: number; readonly [field: string]: string | number },
): Uint8Array {
  return jsonBlock(`id: ${data.seq}\nevent: ${event}`, JSON.stringify(data));
}

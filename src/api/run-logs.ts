import { isUtf8 } from "node:buffer";
import { Elysia } from "elysia";
import { z } from "zod";
import { AppError } from "../errors.ts";
import type { RunId } from "../ids.ts";
import type { Log } from "../log.ts";
import { StdinFull, type RunInput } from "../runs/input.ts";
import type { Step } from "../runs/output/follow.ts";
import type { RunOutput } from "../runs/output/output.ts";
import type { RunRows } from "../runs/rows.ts";
import { isOver, specOf, type Run } from "../runs/run.ts";
import { readQuery } from "./events/query.ts";
import { readBounded } from "./http/body.ts";
import type { Contexts } from "./http/context.ts";
import { errorResponse } from "./http/errors.ts";
import { commentBlock, jsonBlock, SSE_HEADERS } from "./http/sse.ts";
import { createStreams } from "./http/streams.ts";
import { timestamp } from "./http/time.ts";
import type { RunCalls } from "./run-call.ts";

export interface RunLogsParts {
  readonly calls: Pick<RunCalls, "of">;
  readonly rows: Pick<RunRows, "find">;
  readonly output: Pick<RunOutput, "follow" | "dropped" | "hasMore">;
  readonly input: Pick<RunInput, "write" | "eof" | "isLaunched">;
  readonly streams: RunLogStreams;
  readonly contexts: Pick<Contexts, "of">;
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

export type RunLogStreams = ReturnType<typeof createStreams>;

export const createRunLogStreams = (log: Log): RunLogStreams =>
  createStreams({ what: "log streams", limits: LIMITS, log });

/** What a run writes, and what it reads. */
export function runLogRoutes({ calls, rows, output, input, streams, contexts }: RunLogsParts) {
  async function read(request: Request, id: string): Promise<Response> {
    const { run, origin, hold } = await calls.of(request, id);
    const query = readQuery(request, logsQuery);
    const asBytes = wantsBytes(request.headers.get("accept") ?? "");
    const options = { after: afterOf(request, query.since), live: isSet(query.follow) };
    const headers = asBytes ? bytesHeaders(await output.dropped(run.id)) : SSE_HEADERS;
    if (request.method === "HEAD") return new Response(null, { headers });
    // A run that says nothing is no reason to end a stream that can't say so.
    contexts.of(request).silent = true;
    if (
      isOver(run) &&
      request.headers.has("last-event-id") &&
      !(await output.hasMore(run.id, options.after))
    ) {
      // An EventSource that has all of it comes back for ever, unless it is told so.
      return new Response(null, { status: 204 });
    }
    const ended = async () => (await stateOf(run.id)) === "over";
    return hold(async (lease) => {
      const call = { keyId: origin.keyId, owner: run.workspaceId, headers, signal: lease.signal };
      const { response, done } = streams.open(call, async function* (over) {
        if (!asBytes) yield commentBlock("connected");
        for await (const step of output.follow(run.id, options, ended, over)) {
          const bytes = asBytes ? plainBytes(step) : sseBytes(step);
          if (bytes.length > 0) yield bytes;
        }
      });
      lease.extend(done);
      return response;
    });
  }

  async function stateOf(id: RunId): Promise<"waiting" | "running" | "over"> {
    const run = await rows.find(id);
    if (run === null || isOver(run)) return "over";
    return run.status === "running" ? "running" : "waiting";
  }

  /** It may have been made just now. */
  async function untilBegun({ id }: Run, signal: AbortSignal): Promise<void> {
    const deadline = Date.now() + BEGIN_PATIENCE_MS;
    for (;;) {
      const state = await stateOf(id);
      // Its row says that it runs before its command has been started.
      if (state === "running" && input.isLaunched(id)) return;
      if (state === "over") throw new AppError("conflict", "The run is over.");
      if (Date.now() > deadline) {
        throw new AppError("unavailable", "The run has not begun yet.", { retryAfterS: 5 });
      }
      await Bun.sleep(BEGIN_LOOK_MS);
      signal.throwIfAborted();
    }
  }

  async function feed(request: Request, id: string): Promise<unknown> {
    const { run, hold } = await calls.of(request, id);
    if (specOf(run).stdin !== "open") {
      throw new AppError("conflict", "Only a run that was made with stdin_open is fed by calls.");
    }
    const eof = isSet(readQuery(request, stdinQuery).eof);
    const bytes = await readBounded(request, MAX_STDIN_BYTES);
    return hold(async ({ signal }) => {
      await untilBegun(run, signal);
      // Of an end that is said again after its answer was lost nothing is to be written.
      if (bytes.length > 0 || !eof) await input.write(run.id, bytes);
      if (eof) await input.eof(run.id, bytes.length);
      return { written: bytes.length, eof };
    });
  }

  return new Elysia({ prefix: "/v1/runs/:id" })
    .all("/logs", async ({ request, params }) => {
      // Not .get: Elysia answers HEAD by a GET whose body it reads to the end to learn its length.
      if (request.method === "GET" || request.method === "HEAD") return read(request, params.id);
      const detail = `${request.method} does not work here; use GET, HEAD.`;
      return errorResponse(new AppError("method_not_allowed", detail), { allow: "GET, HEAD" });
    })
    .post(
      "/stdin",
      async ({ request, params }) => {
        try {
          return await feed(request, params.id);
        } catch (error) {
          if (!(error instanceof StdinFull)) throw error;
          const { message: detail, retryAfterS, written } = error;
          const headers = { "retry-after": String(retryAfterS) };
          return Response.json({ detail, written }, { status: 503, headers });
        }
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
      block(stream, {
        seq,
        at: timestamp(at),
        text: decoder.decode(bytes),
        // Which bytes they were is not to be told by the text.
        ...(isUtf8(bytes) ? {} : { text_base64: bytes.toBase64() }),
      }),
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

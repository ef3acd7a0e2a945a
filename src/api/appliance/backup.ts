import { Elysia } from "elysia";
import type { z } from "zod";
import type { Ledger } from "../../audit/ledger.ts";
import type { Captures } from "../../backup/captures.ts";
import type { Capture } from "../../backup/source.ts";
import { captureRequest, doneRequest, type CaptureLine, type namespaceLine } from "../../backup/wire.ts";
import { AppError, type ErrorCode } from "../../errors.ts";
import { namespaceId } from "../../ids.ts";
import type { Log } from "../../log.ts";
import type { Access } from "../auth.ts";
import { readJson } from "../http/body.ts";

export interface BackupRoutesParts {
  readonly access: Access;
  readonly captures: Captures;
  readonly ledger: Pick<Ledger, "change">;
  readonly log: Log;
  /** Aborted when this process is about to end. */
  readonly stopping: AbortSignal;
}

/** Shows that both ends are there, and keeps the connection from looking idle. */
const WAITING_EVERY_MS = 2_000;

/** For `cofferdam backup create`, which is root and writes where this process can't. */
export function backupRoutes({ access, captures, ledger, log, stopping }: BackupRoutesParts) {
  const running = new Map<string, { readonly capture: Capture; readonly close: () => void }>();

  function captureOf(id: string): Capture {
    const capture = running.get(id)?.capture;
    if (capture === undefined) throw new AppError("conflict", "That backup is not under way any more.");
    return capture;
  }

  /** The capture ends with whoever asked for it, however that ends. */
  function capturing(files: boolean): ReadableStream<Uint8Array> {
    const id = crypto.randomUUID();
    const state = { over: false };
    const encoder = new TextEncoder();
    let waiting: Timer | undefined;
    let capture: Awaited<ReturnType<Captures["begin"]>> | undefined;

    function close(): void {
      state.over = true;
      clearInterval(waiting);
      running.delete(id);
      capture?.end();
      capture = undefined;
    }

    return new ReadableStream<Uint8Array>({
      start(controller) {
        const say = (line: CaptureLine) => {
          if (!state.over) controller.enqueue(encoder.encode(`${JSON.stringify(line)}\n`));
        };
        const giveUp = (failed: string, code: ErrorCode) => {
          say({ failed, code });
          if (!state.over) controller.close();
          close();
        };
        waiting = setInterval(() => say({ waiting: true }), WAITING_EVERY_MS);
        stopping.addEventListener("abort", () => giveUp("The appliance stops.", "unavailable"), {
          once: true,
        });
        const begin = async () => {
          const begun = await captures.begin(files, (step, done, of) => {
            // Nobody would end what is not begun yet.
            if (state.over) throw new AppError("unavailable", "The backup was given up.");
            say({ step, done, of });
          });
          capture = begun;
          if (state.over) {
            close();
            return;
          }
          running.set(id, {
            capture: begun,
            close() {
              if (!state.over) controller.close();
              close();
            },
          });
          const { databaseVersion, databaseBytes, namespaceCount, missed } = begun;
          say({ ready: id, databaseVersion, databaseBytes, namespaceCount, missed: [...missed] });
        };
        begin().catch((error: unknown) => {
          const told = error instanceof AppError ? error : null;
          if (told === null) log.error("a backup's capture failed", { cause: error });
          giveUp(told?.message ?? "It failed; the log says why.", told?.code ?? "internal");
        });
      },
      cancel: close,
    });
  }

  return new Elysia({ prefix: "/admin/backup" })
    .resolve(async ({ request }) => {
      await access.operatorOnly(request);
    })
    .post(
      "/capture",
      async ({ request }) => {
        const { files } = await readJson(request, captureRequest);
        return new Response(capturing(files), { headers: { "content-type": "application/x-ndjson" } });
      },
      { parse: "none" },
    )
    .get("/:id/database", ({ params }) => new Response(streamOf(captureOf(params.id).database())))
    .get("/:id/namespaces", ({ params }) => new Response(streamOf(namespaceLines(captureOf(params.id)))))
    .get("/:id/blob", async ({ params, query }) => {
      const bytes = await captureOf(params.id).blob(query["key"] ?? "");
      if (bytes === null) throw new AppError("not_found", "There is no such blob.");
      return new Response(Uint8Array.from(bytes));
    })
    .get("/:id/exists", async ({ params, query }) => {
      const id = namespaceId.schema.safeParse(query["namespace"]);
      return { exists: id.success && (await captureOf(params.id).exists(id.data)) };
    })
    .delete("/:id", ({ params }) => {
      captureOf(params.id);
      running.get(params.id)?.close();
      return { ended: true };
    })
    .post(
      "/done",
      async ({ request }) => {
        const data = await readJson(request, doneRequest);
        await ledger.change(async () => ({
          statements: [],
          events: [
            {
              chain: "appliance",
              type: "backup.created",
              namespace: null,
              data,
              origin: access.origin(request),
            },
          ],
          result: null,
        }));
        return { recorded: true };
      },
      { parse: "none" },
    );
}

async function* namespaceLines(capture: Capture): AsyncGenerator<Uint8Array, void> {
  for await (const { id, wrappedKey, manifests } of capture.namespaces()) {
    const line: z.input<typeof namespaceLine> = {
      id,
      wrappedKey: wrappedKey === null ? null : Buffer.from(wrappedKey).toString("base64"),
      manifests: manifests.map(({ blobs }) => ({ blobs: [...blobs] })),
    };
    yield Buffer.from(`${JSON.stringify(line)}\n`);
  }
}

/** Read as the client takes it. */
function streamOf(content: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array> {
  const pieces = content[Symbol.asyncIterator]();
  return new ReadableStream(
    {
      async pull(controller) {
        const { done, value } = await pieces.next();
        if (done === true) controller.close();
        else controller.enqueue(value);
      },
      cancel: async () => void (await pieces.return?.()),
    },
    { highWaterMark: 0 },
  );
}

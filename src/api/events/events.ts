import { Elysia } from "elysia";
import type { Chain } from "../../audit/event.ts";
import type { Start } from "../../audit/follow.ts";
import { ALL, type EventFilter, type EventReader } from "../../audit/reader.ts";
import { AppError } from "../../errors.ts";
import type { KeyId } from "../../ids.ts";
import type { Caller } from "../../keys/caller.ts";
import type { Namespaces } from "../../keys/namespaces.ts";
import type { Access, WorkspaceCall } from "../auth.ts";
import { errorResponse } from "../http/errors.ts";
import { visibleNamespace } from "./access.ts";
import { eventPage } from "./page.ts";
import { pageQuery, readQuery, streamQuery, timeOfCursor } from "./query.ts";
import type { EventStreams } from "./stream.ts";

interface EventRoutesParts {
  readonly access: Access;
  readonly namespaces: Pick<Namespaces, "madeAt">;
  readonly reader: EventReader;
  readonly streams: EventStreams;
}

/** Reading a workspace's audit log, and following it. */
export function eventRoutes({ access, namespaces, reader, streams }: EventRoutesParts) {
  const answers = createAnswers({ reader, streams });

  async function lockedSinceOf(caller: Caller): Promise<number | null> {
    if (caller.scope !== "workspace" || caller.lockedNamespace === null) return null;
    const madeAt = await namespaces.madeAt(caller.workspaceId, caller.lockedNamespace);
    // Without one, its deletion has begun and the key has ended with that.
    return madeAt === null ? ALL.before : madeAt * 1000 - 1;
  }

  async function eventsCall(request: Request, workspaceText: string): Promise<EventsCall> {
    const { caller, workspaceId, run } = await access.member(request, workspaceText);
    const namespace = visibleNamespace(caller, new URL(request.url).searchParams.get("namespace"));
    const lockedSince = await lockedSinceOf(caller);
    const keyId = caller.scope === "operator" ? null : caller.keyId;
    return { scope: { chain: workspaceId, namespace, lockedSince }, keyId, run };
  }

  return new Elysia({ prefix: "/v1/workspaces/:ws" })
    .get("/events", async ({ request, params }) =>
      answers.page(request, await eventsCall(request, params.ws)),
    )
    .all("/webhooks/stream", async ({ request, params }) =>
      answers.stream(request, await eventsCall(request, params.ws)),
    );
}

/** The same of what belongs to no workspace, for the operator. */
export function applianceEventRoutes({ access, reader, streams }: Omit<EventRoutesParts, "namespaces">) {
  const answers = createAnswers({ reader, streams });

  async function eventsCall(request: Request): Promise<EventsCall> {
    const { run } = await access.operatorCall(request);
    return { scope: { chain: "appliance", namespace: null, lockedSince: null }, keyId: null, run };
  }

  return new Elysia({ prefix: "/admin/events" })
    .get("", async ({ request }) => answers.page(request, await eventsCall(request)))
    .all("/stream", async ({ request }) => answers.stream(request, await eventsCall(request)));
}

interface EventsCall {
  /** What the caller may have; the query chooses among it. */
  readonly scope: Omit<EventFilter, "types">;
  /** Whose streams are counted together; null for the operator, whose are not. */
  readonly keyId: KeyId | null;
  readonly run: WorkspaceCall["run"];
}

function createAnswers({ reader, streams }: Pick<EventRoutesParts, "reader" | "streams">) {
  async function startOf(request: Request, since: number | undefined, chain: Chain): Promise<Start> {
    const last = request.headers.get("last-event-id") ?? "";
    if (last === "") return since === undefined ? { kind: "now" } : { kind: "after", time: since };
    const time = await reader.timeOf(chain, last);
    return time === null ? { kind: "unknown event" } : { kind: "after", time };
  }

  return {
    async page(request: Request, { scope, run }: EventsCall): Promise<Response> {
      const { since, types, limit, cursor } = readQuery(request, pageQuery);
      const filter = { ...scope, types: types ?? null };
      const before = cursor === undefined ? ALL.before : timeOfCursor(filter, cursor);
      const span = { after: since ?? ALL.after, before };
      return run(async (lease) => {
        const { response, done } = await eventPage(reader, filter, span, limit, lease.signal);
        lease.extend(done);
        return response;
      });
    },

    async stream(request: Request, { scope, keyId, run }: EventsCall): Promise<Response> {
      // Not left to Elysia, which answers HEAD by a GET whose body it reads to the end: this one has none.
      if (request.method !== "GET") {
        const detail = `${request.method} does not work here; use GET.`;
        return errorResponse(new AppError("method_not_allowed", detail), { allow: "GET" });
      }
      const { since, types } = readQuery(request, streamQuery);
      return run(async (lease) => {
        const start = await startOf(request, since, scope.chain);
        const { response, done } = streams.open(
          keyId,
          { ...scope, types: types ?? null },
          start,
          lease.signal,
        );
        lease.extend(done);
        return response;
      });
    },
  };
}

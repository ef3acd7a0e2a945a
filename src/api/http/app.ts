import { Elysia, type AnyElysia } from "elysia";
import { AppError, foreseen } from "../../errors.ts";
import type { Log } from "../../log.ts";
import type { Contexts } from "./context.ts";
import { errorResponse, exhaustion, hungUp, isHangUp, unforeseen } from "./errors.ts";

export interface AppParts {
  /** One plugin per resource; together they are the table of contents. */
  readonly routes: readonly AnyElysia[];
  readonly log: Log;
  readonly contexts: Contexts;
  /** Whether requests come as https:. */
  readonly encrypted?: boolean;
}

/** The routes with their errors: an AppError as its status, an unknown path or method as 404 or 405, the rest as 500. */
export function createApp({ routes, log, contexts, encrypted = false }: AppParts) {
  // Where Elysia begins to look for the path: behind eleven characters, or seven. A shorter Host would hide its
  // beginning: seven is right for http:; for https: the server refuses what eleven is too much for.
  const handler = { standardHostname: encrypted };
  const app = new Elysia({ strictPath: true, normalize: false, handler });
  app.onError(({ error, code, request }) => {
    const told = foreseen(error);
    if (told !== null) return errorResponse(told);
    if (code === "NOT_FOUND") return nothingThere(request, known);
    if (isHangUp(error, request)) return errorResponse(hungUp());
    const { id: requestId, route } = contexts.of(request);
    log.error("request failed", {
      request_id: requestId,
      method: request.method,
      route,
      cause: error,
    });
    return errorResponse(exhaustion(error) ?? unforeseen(requestId));
  });
  // Before any hook of a plugin: what those refuse has a route as well.
  app.onTransform(({ request, route, params }) => {
    contexts.of(request).route = route;
    // What can't be decoded, Elysia gives as null.
    const parts: readonly unknown[] = Object.values(params ?? {});
    if (parts.includes(null)) throw nothingAt(request);
  });
  for (const plugin of routes) app.use(plugin);
  const known = app.routes.map(({ method, path }) => ({ method, pattern: patternOf(path) }));
  return app;
}

interface KnownRoute {
  readonly method: string;
  readonly pattern: RegExp;
}

function nothingThere(request: Request, known: readonly KnownRoute[]): Response {
  const path = new URL(request.url).pathname;
  const methods = new Set(known.filter(({ pattern }) => pattern.test(path)).map(({ method }) => method));
  if (methods.size === 0) {
    return errorResponse(nothingAt(request));
  }
  if (methods.has("GET")) methods.add("HEAD");
  const allow = [...methods].toSorted().join(", ");
  const detail = `${request.method} does not work here; use ${allow}.`;
  return errorResponse(new AppError("method_not_allowed", detail), { allow });
}

function nothingAt({ method, url }: Request): AppError {
  return new AppError("not_found", `There is nothing at ${method} ${new URL(url).pathname}.`);
}

/** A route's path (`/v1/workspaces/:ws/keys`, `/files/*`) as a pattern for a request's. */
function patternOf(path: string): RegExp {
  const parts = path.split("/").map((part) => {
    if (part.startsWith(":")) return "[^/]+";
    return part === "*" ? ".+" : part.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`);
  });
  return new RegExp(`^${parts.join("/")}$`);
}

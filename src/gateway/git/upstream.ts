import { AppError } from "../../errors.ts";
import type { Call } from "../call.ts";
import { headersOf } from "./answers.ts";
import type { AppTokens } from "./app-tokens.ts";
import type { Asked } from "./asked.ts";
import { basic } from "./credential.ts";
import { continued, type BodyParts } from "./relay.ts";
import { nameOf, type Route } from "./route.ts";

/** A server's answer that git can't use, in words for a person; `status` is what its client gets. */
export interface Problem {
  readonly status: number;
  readonly text: string;
  /** Whether a push may have been taken all the same. */
  readonly uncertain: boolean;
}

export interface SendOptions {
  readonly body?: BodyParts;
  /** Of what the server takes of it. */
  readonly onBytes?: (count: number) => void;
  readonly signal: AbortSignal;
}

export type Send = (asked: Asked, options: SendOptions) => Promise<Response | Problem>;

/** For a server to take a request. Its answer may take as long as a pack takes to be made, or to be unpacked. */
const TAKEN_MS = 30_000;
const APP_USER = "x-access-token";
/** Servers that take a token alone want any name beside it. */
const TOKEN_USER = "git";

/** Sends git's request on under the credential that the run's grant names, and only such headers as git's protocol has. */
export function createSend({ call, tokens }: { readonly call: Call; readonly tokens: AppTokens }): Send {
  async function sendOnce(asked: Asked, options: SendOptions) {
    const { request, grant, route } = asked;
    const { url, authorization, token } = await authorized(asked);
    const path = route.advertisement ? `info/refs?service=${route.service}` : route.service;
    const { body, onBytes, signal } = options;
    const abort = new AbortController();
    const untaken = () =>
      abort.abort(
        new AppError("unavailable", `${route.host} did not take a request in ${TAKEN_MS / 1000} s.`),
      );
    const timer = setTimeout(untaken, TAKEN_MS);
    const onTaken = (count: number) => {
      clearTimeout(timer);
      onBytes?.(count);
    };
    const response = await call(`${url}/${path}`, {
      method: route.advertisement ? "GET" : "POST",
      headers: { ...forwarded(request.headers, route), authorization },
      ...(body === undefined ? {} : { body: continued(body, onTaken) }),
      signal: AbortSignal.any([signal, abort.signal]),
    }).finally(() => clearTimeout(timer));
    if (response.status === 401 && token !== null) await tokens.forget(grant.run, token);
    return { response, retry: response.status === 401 && token !== null && route.advertisement };
  }

  async function authorized({ grant, git, credential, route, repository: { access } }: Asked) {
    const url = `${credential.git_url}/${route.repository}.git`;
    if (!("app_id" in credential)) {
      const { username = TOKEN_USER, secret } = credential;
      return { url, authorization: basic(username, secret), token: null };
    }
    const [owner = ""] = route.repository.split("/");
    const names = git.repositories
      .filter((one) => one.access === access)
      .map((one) => nameOf(one.name)?.split("/") ?? []);
    const repositories = names.flatMap(([of, name]) => (of === owner && name !== undefined ? [name] : []));
    const token = await tokens.token(grant, credential, { owner, repositories, access });
    return { url, authorization: basic(APP_USER, token), token };
  }

  return async (asked, options) => {
    const { route } = asked;
    try {
      const first = await sendOnce(asked, options);
      // A token may have been revoked by hand; another one costs nobody anything, before any body is sent.
      if (first.retry) await first.response.body?.cancel();
      const { response } = first.retry ? await sendOnce(asked, options) : first;
      const problem = problemOf(response, route);
      if (problem === null) return response;
      await response.body?.cancel();
      return problem;
    } catch (error) {
      if (error instanceof AppError)
        return { status: 502, text: error.message.replace(/\.$/, ""), uncertain: true };
      // A push whose client left in the middle of its pack, or a run that is over.
      if (options.signal.aborted || (error as Error).name === "AbortError") {
        return { status: 499, text: "the request was cut short", uncertain: true };
      }
      throw error;
    }
  };
}

/** Nothing else of what a client says: no cookie, no address, no credential. */
function forwarded(headers: Headers, { service, advertisement }: Route): Record<string, string> {
  const agent = headers.get("user-agent") ?? "";
  const protocol = headers.get("git-protocol") ?? "";
  const length = headers.get("content-length") ?? "";
  const encoding = headers.get("content-encoding");
  return {
    // Servers look at it for what git knows.
    "user-agent": /^git\/[!-~]{1,100}$/.test(agent) ? agent : "git/2.39",
    accept: advertisement ? "*/*" : `application/x-${service}-result`,
    ...(/^[a-z0-9=:._-]{1,100}$/.test(protocol) ? { "git-protocol": protocol } : {}),
    ...(advertisement ? {} : { "content-type": `application/x-${service}-request` }),
    ...(!advertisement && /^\d{1,15}$/.test(length) ? { "content-length": length } : {}),
    ...(!advertisement && encoding === "gzip" ? { "content-encoding": encoding } : {}),
  };
}

function problemOf(response: Response, route: Route): Problem | null {
  const { host, repository: name, service, advertisement } = route;
  const { status } = response;
  const wanted = headersOf(service, advertisement ? "advertisement" : "result")["content-type"];
  const [type = ""] = (response.headers.get("content-type") ?? "").split(";");
  if (status === 200 && type.trim() === wanted) return null;
  const problem = (as: number, text: string, uncertain = false) => ({ status: as, text, uncertain });
  if (status === 200) return problem(502, `${host} answered with something that is not git's`, true);
  if (status >= 300 && status < 400) {
    return problem(
      502,
      `${host} has ${name} at another address (${status}), and no redirect is followed here`,
    );
  }
  // Not as it is: git would ask for a password.
  if (status === 401) return problem(502, `${host} does not take the credential of this run (401)`);
  if (status === 403) return problem(403, `${host} refuses this run's credential for ${name} (403)`);
  if (status === 404) return problem(404, `${host} has no ${name} that this run's credential opens (404)`);
  if (status === 429) return problem(429, `${host} has too many requests; try again later (429)`);
  return problem(502, `${host} failed to answer (${status})`, status >= 500);
}

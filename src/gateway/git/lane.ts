import type { RunId } from "../../ids.ts";
import type { Log } from "../../log.ts";
import type { Secrets } from "../../secrets.ts";
import type { Call } from "../call.ts";
import type { Lane } from "../grant.ts";
import { lessCapabilities } from "./advertisement.ts";
import { fetchError, headersOf, plain } from "./answers.ts";
import type { Asked } from "./asked.ts";
import { createAppTokens } from "./app-tokens.ts";
import { hostOf, parseCredential } from "./credential.ts";
import { createOwnBranches, settleLostPushes } from "./journal.ts";
import { createPackWatch } from "./pack-watch.ts";
import { createPlaces } from "./places.ts";
import { createPushHandler } from "./push-request.ts";
import { watched } from "./relay.ts";
import { nameOf, parseRoute } from "./route.ts";
import { listed } from "./rules.ts";
import { createSend } from "./upstream.ts";

export interface GitLaneParts {
  readonly call: Call;
  /** Of the gateway's own key. */
  readonly secrets: Pick<Secrets, "seal" | "open">;
  readonly log: Log;
  readonly now?: () => number;
}

/** git over smart HTTP for runs: `/git/HOST/OWNER/REPO…`, under a credential that they never see. */
export function createGitLane({ call, secrets, log, now = Date.now }: GitLaneParts): Lane {
  const tokens = createAppTokens({ call, secrets, log, now });
  const places = createPlaces();
  const send = createSend({ call, tokens });
  /** Pushes of each run whose end is not written down yet, perhaps because its client has left. */
  const pushes = new Map<RunId, Set<Promise<void>>>();
  const push = createPushHandler({
    send,
    ownBranches: createOwnBranches(),
    onSent({ run }, settled) {
      const mine = pushes.get(run) ?? new Set();
      pushes.set(run, mine.add(settled));
      void settled.then(() => mine.delete(settled));
    },
  });

  async function relay(asked: Asked): Promise<Response> {
    const { request, grant, git, route } = asked;
    if (route.service === "git-receive-pack" && !route.advertisement) return push(asked);
    const started = performance.now();
    const answer = await send(asked, {
      ...(request.body === null ? {} : { body: { head: [], reader: request.body.getReader() } }),
      signal: AbortSignal.any([grant.signal, request.signal]),
    });
    if (!(answer instanceof Response)) {
      return route.advertisement ? plain(answer.status, `${answer.text}.`) : fetchError(`${answer.text}.`);
    }
    const source = answer.body ?? new Response("").body ?? new ReadableStream();
    if (route.advertisement) {
      const shown = route.service === "git-upload-pack" ? source : source.pipeThrough(lessCapabilities());
      return new Response(shown, { headers: headersOf(route.service, "advertisement") });
    }
    const pack = createPackWatch();
    const count = { bytes: 0 };
    const onChunk = (chunk: Uint8Array) => {
      count.bytes += chunk.length;
      pack.add(chunk);
    };
    const onEnd = () => {
      if (!pack.found()) return;
      const duration_ms = Math.round(performance.now() - started);
      grant.journal.append({
        kind: "git",
        credential: git.credential,
        repository: route.repository,
        action: "fetch",
        refs: [],
        bytes: count.bytes,
        duration_ms,
      });
    };
    return new Response(watched(source, onChunk, onEnd), { headers: headersOf(route.service, "result") });
  }

  return {
    async handle(request, grant) {
      const refuse = (reason: string, text: string) => {
        grant.deny({ lane: "git", reason, detail: text });
        return plain(403, text);
      };
      const { git } = grant.spec();
      if (git === null) return refuse("lane", "This run may not use git.");
      const route = parseRoute(request.method, request.url);
      if (route === null) {
        return refuse("path", "Only git itself is served here, over smart HTTP: no LFS, no files, no API.");
      }
      const credential = parseCredential(grant.secret(git.credential));
      const repository = git.repositories.find((one) => nameOf(one.name) === route.repository);
      if (route.host !== hostOf(credential.git_url) || repository === undefined) {
        const names = listed(git.repositories.map((one) => `${hostOf(credential.git_url)}/${one.name}`));
        return refuse(
          "repository",
          `This run may not reach ${route.host}/${route.repository}, only ${names}.`,
        );
      }
      if (route.service === "git-receive-pack" && repository.access !== "write") {
        return refuse("access", `This run may read ${repository.name}, not push to it.`);
      }
      const leave = places.take(grant.run);
      if (leave === null) return plain(429, "Too many requests of git's are under way; try again later.");
      try {
        const response = await relay({ request, grant, git, credential, route, repository });
        if (response.body === null) leave();
        return new Response(response.body && watched(response.body, () => {}, leave), response);
      } catch (error) {
        leave();
        // Its client has gone, or the run is over: nobody reads this.
        if (request.signal.aborted || grant.signal.aborted) return plain(499, "The request was cut short.");
        throw error;
      }
    },

    async end(journal) {
      await Promise.all(Array.from(pushes.get(journal.run) ?? []));
      pushes.delete(journal.run);
      settleLostPushes(journal);
      await tokens.revokeAll(journal);
    },
  };
}

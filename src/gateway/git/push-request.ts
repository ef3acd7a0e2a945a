import { plain, pushRefused, headersOf, type PushReport } from "./answers.ts";
import type { Grant } from "../grant.ts";
import type { Asked } from "./asked.ts";
import { keepPush, settlePush, type IsOwnBranch } from "./journal.ts";
import { FLUSH } from "./packets.ts";
import { createPushReader, type Push } from "./push.ts";
import { relayReport, type Reader } from "./relay.ts";
import { createReportReader } from "./report.ts";
import { listed, refusedOf, type Repository } from "./rules.ts";
import type { Send } from "./upstream.ts";

type Commands = Extract<Push, { kind: "commands" }>;

export interface PushParts {
  readonly send: Send;
  readonly ownBranches: IsOwnBranch;
  /** Told of each push that is sent on, until what became of it is written down: a run's end waits for it. */
  readonly onSent: (grant: Grant, settled: Promise<void>) => void;
}

/** Reads what a push wants to change, refuses all of it or sends all of it on, and notes what the server made of it. */
export function createPushHandler({ send, ownBranches, onSent }: PushParts) {
  return async (asked: Asked): Promise<Response> => {
    const { request, grant, repository } = asked;
    const deny = (reason: string, detail: string) => grant.deny({ lane: "git", reason, detail });
    if (request.headers.has("content-encoding") || request.body === null) {
      deny("push", "a push that is compressed as a whole, or empty");
      return plain(415, "A push has to come as git sends it, uncompressed.");
    }
    const reader = request.body.getReader();
    const push = await readPush(reader);
    if (push.kind === "probe") return probe(asked, reader, push.rest);
    if (push.kind === "unreadable") {
      deny("push", `${repository.name}: a push that ${push.why}`);
      await drain(reader, grant.signal);
      return unreadable(push);
    }
    if (!push.capabilities.some((word) => word.startsWith("report-status"))) {
      deny("push", `${repository.name}: a push that asks for no report`);
      await drain(reader, grant.signal);
      return plain(400, "A push has to ask for a report of what became of it (report-status).");
    }
    const isOwn = await ownBranches(grant.journal, asked.route.repository);
    const refused = refusedOf(push.commands, repository, isOwn);
    if (refused.length > 0) {
      for (const { ref, reason, why } of refused) deny(reason, `${repository.name} ${shown(ref)}: ${why}`);
      await drain(reader, grant.signal);
      const whyOf = new Map(refused.map(({ ref, why }) => [ref, why]));
      return pushRefused({
        capabilities: push.capabilities,
        unpack: "ok",
        refs: push.commands.map(({ ref }) => ({ ref, why: whyOf.get(ref) ?? "another ref was refused" })),
        explanation: explanationOf(repository),
      });
    }
    return sendOn(asked, reader, push);
  };

  async function probe(asked: Asked, reader: Reader, rest: Uint8Array): Promise<Response> {
    const { grant, route, repository } = asked;
    if (rest.length > 0 || (await reader.read()).value !== undefined) {
      grant.deny({ lane: "git", reason: "push", detail: `${repository.name}: a push that names no ref` });
      await drain(reader, grant.signal);
      return plain(400, "This push names no ref.");
    }
    const answer = await send(asked, { body: { head: [FLUSH], reader: null }, signal: grant.signal });
    if (!(answer instanceof Response)) return plain(answer.status, answer.text);
    return new Response(answer.body, { headers: headersOf(route.service, "result") });
  }

  async function sendOn(asked: Asked, reader: Reader, push: Commands): Promise<Response> {
    const { grant, git, route } = asked;
    const { commands, capabilities } = push;
    const { journal } = grant;
    const begun = { credential: git.credential, repository: route.repository };
    const started = performance.now();
    const sent = { bytes: 0, settled: false };
    const settled = Promise.withResolvers<void>();
    onSent(grant, settled.promise);
    const name = await keepPush(journal, { ...begun, commands }).catch((error: unknown) => {
      settled.resolve();
      throw error;
    });
    const report = createReportReader(commands, capabilities.includes("side-band-64k"));

    const settle = (known: { accepted: false | null } | null = null) => {
      if (sent.settled) return;
      sent.settled = true;
      const outcomes = known === null ? report.outcomes() : commands.map((one) => ({ ...one, ...known }));
      const durationMs = performance.now() - started;
      try {
        settlePush(journal, name, { ...begun, outcomes, bytes: sent.bytes, durationMs });
      } finally {
        settled.resolve();
      }
    };

    const sending = send(asked, {
      body: { head: [push.head, push.rest], reader },
      onBytes: (count) => (sent.bytes += count),
      signal: grant.signal,
    });
    const answer = await sending.catch((error: unknown) => {
      settle({ accepted: null });
      throw error;
    });
    if (!(answer instanceof Response)) {
      const isUnknown = answer.uncertain && sent.bytes > 0;
      settle({ accepted: isUnknown ? null : false });
      await drain(reader, grant.signal);
      return failed(push, answer.text, isUnknown);
    }
    if (answer.body === null) {
      settle();
      return new Response(null, { headers: headersOf(route.service, "result") });
    }
    const relayed = relayReport(answer.body, report, () => settle(), grant.signal);
    return new Response(relayed, { headers: headersOf(route.service, "result") });
  }
}

async function readPush(reader: Reader): Promise<Push> {
  const parser = createPushReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done || value === undefined) return parser.end();
    const push = parser.add(value);
    if (push !== null) return push;
  }
}

/** A client reads no answer before it has sent everything. None of it is kept. */
async function drain(reader: Reader, signal: AbortSignal): Promise<void> {
  const stop = () => void reader.cancel().catch(() => undefined);
  signal.addEventListener("abort", stop);
  try {
    if (signal.aborted) stop();
    while (!(await reader.read()).done);
  } catch {
    // It has gone.
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

function unreadable({ why, commands, capabilities }: Extract<Push, { kind: "unreadable" }>): Response {
  if (capabilities.length === 0) return plain(400, `This push ${why}.`);
  const refs = commands.map(({ ref }) => ({ ref, why: "this push is not passed on" }));
  return pushRefused({
    capabilities,
    unpack: `this push ${why}`,
    refs,
    explanation: [`This push ${why}.`, "Nothing of it was sent on."],
  });
}

function failed({ commands, capabilities }: Commands, text: string, isUnknown: boolean): Response {
  const why = isUnknown ? "unknown whether it was taken" : "not taken";
  const report: PushReport = {
    capabilities,
    unpack: text,
    refs: commands.map(({ ref }) => ({ ref, why })),
    explanation: [`${text}.`],
  };
  return pushRefused(report);
}

function explanationOf({ name, branches, update }: Repository): string[] {
  const may = update ? "create and change" : "create";
  return [
    `Nothing of this push was taken. In ${name} this run may ${may} branches that`,
    `match ${listed(branches)}${update ? "" : ", and change those that it has created"}.`,
    "It may push no tags and other refs, and delete nothing.",
  ];
}

/** A ref's bytes as text. */
function shown(ref: string): string {
  return JSON.stringify(Buffer.from(ref, "latin1").toString("utf8"));
}

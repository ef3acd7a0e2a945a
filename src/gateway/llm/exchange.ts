import type { Log } from "../../log.ts";
import type { LlmGrant } from "../../protocol/gateway.ts";
import type { Grant } from "../grant.ts";
import type { Space } from "../space.ts";
import type { Reservation } from "../journal.ts";
import type { Accounted, Api, Asked } from "./api.ts";
import { parseBody, type Body } from "./body.ts";
import type { Budget, Outcome } from "./budget.ts";
import { answerHeaders } from "./headers.ts";
import { allows } from "./models.ts";
import { errorIn, Refused } from "./refusal.ts";
import { relay } from "./relay.ts";
import type { Held } from "./room.ts";
import { openProvider, type createUpstream, type Provider, type Timeouts } from "./upstream.ts";
import { type Told, type UsageReader } from "./usage.ts";

/** A run's request that is under way. */
export interface Call {
  readonly request: Request;
  readonly grant: Grant;
  readonly grants: readonly LlmGrant[];
  readonly budget: Budget;
  /** Tells that nothing of it is left; whoever gives an answer back has seen to that. */
  readonly end: () => void;
}

export interface ExchangeParts {
  readonly upstream: ReturnType<typeof createUpstream>;
  readonly timeouts: Timeouts;
  /** For what is held of answers. */
  readonly space: Space;
  readonly log: Log;
}

/** What is kept of a request and of its answer, where a workspace wants that. */
const CONTENT_BYTES = 16 * 1024;
const ERROR_BYTES = 64 * 1024;

const NO_USAGE: UsageReader = { event: () => {}, whole: () => {}, done: () => {}, told: () => FREE };
const FREE: Told = {
  use: { input: 0, cacheRead: 0, cacheWrite: 0, cacheWriteLong: 0, output: 0 },
  modes: [],
  final: true,
  others: [],
};

/** One request and its answer, from the budget's reservation to its settlement. */
export function createExchange({ upstream, timeouts, space, log }: ExchangeParts) {
  return {
    /** `free` is the route of a call that takes the same body and costs nothing. */
    async ask(call: Call, api: Api, held: Held, free: string | null): Promise<Response> {
      const { bytes } = held;
      const body = parseBody(bytes, (more) => held.take(more));
      const asked = api.judge(body);
      const grant = call.grants.find((one) => allows(one, asked.model));
      if (grant === undefined) throw new Refused("model", `The run may not use the model ${asked.model}.`);
      if (asked.providerSide !== null && !grant.provider_tools) {
        throw new Refused(
          "provider_tools",
          `The run may not have its model's provider reach anything by itself, as by ${asked.providerSide}.`,
        );
      }
      const other = asked.others.find((model) => !allows(grant, model));
      if (other !== undefined) {
        throw new Refused("model", `The run may not use the model ${other.slice(0, 200)}, nor have it used.`);
      }
      const provider = openProvider(call.grant.secret(grant.credential));
      if (free !== null) {
        const reservation = call.budget.reserveFree(grant, free, asked.model);
        return send(call, {
          grant,
          provider,
          route: free,
          reservation,
          bytes,
          prepare: () => ({ body, isExtra: null }),
          usage: NO_USAGE,
        });
      }
      const { reservation, limit } = call.budget.reserve(grant, {
        route: api.route,
        asked,
        bytes: bytes.length,
      });
      return send(call, {
        grant,
        provider,
        route: api.route,
        reservation,
        bytes,
        prepare: () => finalBody(api, body, asked, limit, provider),
        usage: api.usage(),
      });
    },

    async get(call: Call, grant: LlmGrant, route: string): Promise<Response> {
      const provider = openProvider(call.grant.secret(grant.credential));
      const reservation = call.budget.reserveFree(grant, route, "*");
      const bytes = new Uint8Array();
      return send(call, { grant, provider, route, reservation, bytes, prepare: () => null, usage: NO_USAGE });
    },
  };

  interface Sending {
    readonly grant: LlmGrant;
    readonly provider: Provider;
    readonly route: string;
    readonly reservation: Reservation;
    readonly bytes: Uint8Array;
    /** What is sent, in its final form. */
    readonly prepare: () => Accounted | null;
    readonly usage: UsageReader;
  }

  /** From here on the reservation is settled, whatever comes. */
  async function send(call: Call, sending: Sending): Promise<Response> {
    const { grant, provider, route, reservation, bytes } = sending;
    const { dialect } = grant;
    const began = performance.now();
    const since = (moment: number) => Math.round(performance.now() - moment);
    const state = { isSent: false, status: null as number | null, firstByteMs: null as number | null };
    const stream = { began: null as number | null };
    const { abort, release } = abortOf(call);
    // The rest of it is not kept while the answer comes.
    const { length } = bytes;
    const request = grant.record_content ? bytes.slice(0, CONTENT_BYTES) : null;

    const settle = (told: Outcome["told"], answer: Uint8Array = new Uint8Array()) => {
      call.budget.settle(reservation, {
        told,
        streamedMs: stream.began === null ? null : since(stream.began),
        bytes: length,
        status: state.status,
        first_byte_ms: state.firstByteMs,
        duration_ms: since(began),
        content: request === null ? null : contentOf(request, answer, provider.secret),
      });
    };
    const end = () => {
      release();
      call.end();
    };

    let answer: Response;
    let sent: Accounted | null;
    try {
      sent = sending.prepare();
      const outgoing = {
        provider,
        dialect,
        route,
        given: call.request,
        body: sent?.body.text ?? null,
        abort,
      };
      answer = await upstream(outgoing, () => (state.isSent = true));
    } catch (error) {
      const isFree = sending.usage === NO_USAGE;
      settle(state.isSent && !isFree ? "unknown" : null);
      end();
      if (error instanceof Refused)
        log.warn("a model's provider did not answer", { run: call.grant.run, error: error.message });
      throw error;
    }
    state.status = answer.status;
    state.firstByteMs = since(began);
    if (!answer.ok) {
      const idle = setTimeout(() => abort.abort(), timeouts.idleMs);
      try {
        return await failed(answer, grant, provider);
      } finally {
        clearTimeout(idle);
        // A request that failed costs nothing.
        settle(null);
        abort.abort();
        end();
      }
    }
    const headers = answerHeaders(answer.headers);
    const isStream = (headers.get("content-type") ?? "").includes("text/event-stream");
    if (isStream) stream.began = performance.now();
    const passed = relay({
      answer,
      isStream,
      usage: sending.usage,
      isExtra: sent?.isExtra ?? null,
      idleMs: timeouts.idleMs,
      abort,
      onCost: settle,
      onEnd: end,
      keepBytes: grant.record_content ? CONTENT_BYTES : 0,
      share: space.share(call.grant.run),
    });
    return new Response(passed, { status: answer.status, headers });
  }
}

function finalBody(
  api: Api,
  body: Body,
  asked: Asked,
  limit: number | null,
  { base_url }: Provider,
): Accounted {
  const isOpenAi = URL.parse(base_url)?.hostname === "api.openai.com";
  const limited = limit === null ? body : api.withLimit(body, limit, isOpenAi);
  return api.accounted(limited, asked);
}

/** Ends with the run, or with its caller. */
function abortOf({ grant, request }: Call): { abort: AbortController; release: () => void } {
  const abort = new AbortController();
  const onEnd = () => abort.abort();
  for (const signal of [grant.signal, request.signal]) {
    if (signal.aborted) onEnd();
    signal.addEventListener("abort", onEnd);
  }
  const release = () => {
    for (const signal of [grant.signal, request.signal]) signal.removeEventListener("abort", onEnd);
  };
  return { abort, release };
}

/** The provider's refusal in its own words, unless they are about the credential, or no JSON: clients ask again after HTML. */
async function failed(answer: Response, { dialect }: LlmGrant, { secret }: Provider): Promise<Response> {
  const { status } = answer;
  if (status === 401 || status === 403 || (status >= 300 && status < 400)) {
    const what = status < 400 ? "sends elsewhere" : "refuses the appliance's credential";
    throw new Refused("credential", `The model's provider ${what} (${status}); its admin has to look at it.`);
  }
  const headers = answerHeaders(answer.headers);
  const text = await readText(answer);
  const isJson = (headers.get("content-type") ?? "").includes("json") && !text.includes(secret);
  if (isJson) return new Response(text, { status, headers });
  headers.delete("content-type");
  const type = dialect === "anthropic" ? "api_error" : "server_error";
  return errorIn(dialect, status, type, `The model's provider answered with ${status}.`, headers);
}

async function readText(answer: Response): Promise<string> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const piece of answer.body ?? []) {
      pieces.push(piece);
      size += piece.length;
      if (size > ERROR_BYTES) break;
    }
  } catch {
    // Its status is what counts.
  }
  return Buffer.concat(pieces).subarray(0, ERROR_BYTES).toString("utf8");
}

function contentOf(request: Uint8Array, answer: Uint8Array, secret: string) {
  const text = (bytes: Uint8Array) =>
    Buffer.from(bytes.subarray(0, CONTENT_BYTES)).toString("utf8").replaceAll(secret, "[credential]");
  return { request: text(request), answer: text(answer) };
}

import type { Log } from "../../log.ts";
import { remembering } from "../../net/resolve.ts";
import type { Prices } from "../../prices/prices.ts";
import type { Dialect, LlmGrant } from "../../protocol/gateway.ts";
import type { Grant, Lane } from "../grant.ts";
import type { Journal } from "../journal.ts";
import { createSpace, type SpaceLimits } from "../space.ts";
import type { Api } from "./api.ts";
import { createBudget, type Budget } from "./budget.ts";
import { chat } from "./chat.ts";
import { createExchange, type Call } from "./exchange.ts";
import { messages } from "./messages.ts";
import { allows, listModels, showModel } from "./models.ts";
import { createPace } from "./pace.ts";
import { answerRefusal, dialectOf, Refused, type RefusalReason } from "./refusal.ts";
import { responses } from "./responses.ts";
import { createRoom } from "./room.ts";
import { createUpstream, TIMEOUTS, type Timeouts, type UpstreamParts } from "./upstream.ts";

export interface LlmLaneParts extends Omit<UpstreamParts, "timeouts"> {
  readonly prices: Prices;
  readonly log: Log;
  readonly timeouts?: Timeouts;
  /** Requests of one run at once. */
  readonly mostAtOnce?: number;
  /** For what is held of answers. */
  readonly answers?: SpaceLimits;
}

/** What is known of one run, for as long as its journal is open. */
interface RunState {
  readonly budget: Budget;
  readonly pace: ReturnType<typeof createPace>;
  underWay: number;
}

interface Incoming {
  readonly request: Request;
  readonly grant: Grant;
  readonly state: RunState;
  /** Those of the caller's dialect. */
  readonly grants: readonly LlmGrant[];
}

const MOST_AT_ONCE = 128;
const MIB = 1024 * 1024;
/** Of what providers answer, where it has to be whole to be read: a few large ones at once, and of every run some small ones. */
const ANSWERS: SpaceLimits = { all: 128 * MIB, ofRun: 64 * MIB, sure: MIB };
/** How long a provider's addresses are good for: a lookup for each request would make each one slower. */
const NAMES_MS = 30_000;

const APIS: readonly Api[] = [messages, responses, chat];
/** What a run is refused by its policy, and so is told of; the rest is its own mistake, or its provider's. */
const DENIALS = new Set<RefusalReason>(["budget", "rate", "model", "provider_tools", "route", "lane"]);

/** Runs' requests to models: the gateway's routes for them, whichever provider they go to. */
export function createLlmLane(parts: LlmLaneParts): Lane {
  const { prices, log, timeouts = TIMEOUTS, mostAtOnce = MOST_AT_ONCE, answers = ANSWERS } = parts;
  const runs = new WeakMap<Journal, RunState>();
  const room = createRoom();
  const space = createSpace(answers);
  const vetting = { ...parts.vetting, resolve: remembering(parts.vetting.resolve, NAMES_MS) };
  const upstream = createUpstream({ dialer: parts.dialer, vetting, timeouts });
  const exchange = createExchange({ upstream, timeouts, space, log });

  function stateOf({ journal }: Grant): RunState {
    const known = runs.get(journal);
    if (known !== undefined) return known;
    const state = { budget: createBudget(journal, prices), pace: createPace(), underWay: 0 };
    runs.set(journal, state);
    return state;
  }

  async function answer(request: Request, grant: Grant, dialect: Dialect): Promise<Response> {
    const { pathname } = new URL(request.url);
    const { method } = request;
    if (method === "HEAD" && pathname === "/") return new Response(null);
    if (request.headers.get("upgrade")?.toLowerCase() === "websocket") {
      throw new Refused("websocket", "WebSockets are not served here; send the request by HTTP.");
    }
    const state = stateOf(grant);
    const grants = grant.spec().llm.filter((one) => one.dialect === dialect);
    if (grants.length === 0) throw new Refused("lane", `The run was given no ${NAMES[dialect]} credential.`);
    const call = { request, grant, state, grants };
    if (method === "GET" && pathname === "/v1/models") return models(call, dialect);
    const one = /^\/v1\/models\/(.+)$/.exec(pathname)?.[1];
    if (method === "GET" && one !== undefined) return oneModel(grants, dialect, one);
    if (method === "POST") {
      if (pathname === COUNT_TOKENS) return withBody(call, messages, COUNT_TOKENS);
      const api = APIS.find(({ route }) => route === pathname);
      if (api !== undefined) return withBody(call, api, null);
    }
    throw new Refused("route", `${method} ${pathname} is not served to runs.`);
  }

  async function withBody(incoming: Incoming, api: Api, free: string | null): Promise<Response> {
    const { request, grant, state } = incoming;
    const encoding = request.headers.get("content-encoding") ?? "identity";
    if (encoding !== "identity")
      throw new Refused("request", `A body in ${encoding} is not taken; send it as it is.`);
    return underWay(incoming, async (end) => {
      using body = await room.read(request, grant.run);
      const call: Call = { ...incoming, budget: state.budget, end };
      const began = performance.now();
      // Looks at all of it before it waits for anything.
      const answer = exchange.ask(call, api, body, free);
      room.took(grant.run, performance.now() - began);
      return await answer;
    });
  }

  /** Counts a request until `end` is called, which whoever took it over does when its answer is over. */
  async function underWay(
    { state, grant, grants }: Incoming,
    ask: (end: () => void) => Promise<Response>,
  ): Promise<Response> {
    const slowest = grants.map((one) => one.requests_per_minute).filter((one) => one !== null);
    state.pace.take(slowest.length === 0 ? null : Math.min(...slowest));
    if (state.underWay >= mostAtOnce) {
      throw new Refused("rate", `The run has ${mostAtOnce} requests under way.`, { retryAfterS: 1 });
    }
    // Its cost might not be known, and would count in full.
    if (space.isCrowded(grant.run)) {
      throw new Refused(
        "full",
        "Answers of the model's provider are too large: the gateway holds no more of them for this run until some are over.",
        { retryAfterS: 1 },
      );
    }
    grant.signal.throwIfAborted();
    state.underWay += 1;
    let isOver = false;
    const end = () => {
      if (!isOver) state.underWay -= 1;
      isOver = true;
    };
    try {
      return await ask(end);
    } catch (error) {
      end();
      throw error;
    }
  }

  async function models(incoming: Incoming, dialect: Dialect): Promise<Response> {
    const { grants, state } = incoming;
    const [any] = grants.filter((one) => one.models === null);
    if (any === undefined)
      return listModels(dialect, [...new Set(grants.flatMap((one) => one.models ?? []))]);
    return underWay(incoming, (end) =>
      exchange.get({ ...incoming, budget: state.budget, end }, any, "/v1/models"),
    );
  }

  function oneModel(grants: readonly LlmGrant[], dialect: Dialect, id: string): Response {
    if (grants.some((one) => allows(one, id))) return showModel(dialect, id);
    throw new Refused("model", `The run may not use the model ${id.slice(0, 200)}.`);
  }

  return {
    async handle(request, grant) {
      const granted = grant.spec().llm.map((one) => one.dialect);
      const dialect = dialectOf(request, granted);
      try {
        return await answer(request, grant, dialect);
      } catch (error) {
        if (!(error instanceof Refused)) {
          if (grant.signal.aborted) return answerRefusal(dialect, new Refused("lane", "The run is over."));
          // Whoever asked has gone, in the middle of its body: nobody reads this.
          if (request.signal.aborted) return answerRefusal(dialect, new Refused("request", "It was cut."));
          throw error;
        }
        if (DENIALS.has(error.reason)) {
          grant.deny({ lane: "llm", reason: error.reason, detail: error.message });
        }
        return answerRefusal(dialect, error);
      }
    },
  };
}

const NAMES = { anthropic: "Anthropic", openai: "OpenAI" } as const;
const COUNT_TOKENS = "/v1/messages/count_tokens";

import type { CredentialId } from "../../ids.ts";
import { costOf, type Price, type Prices, type TokenUse } from "../../prices/prices.ts";
import type { LlmGrant } from "../../protocol/gateway.ts";
import type { Journal, LlmRecord, Reservation, Spent } from "../journal.ts";
import type { Asked } from "./api.ts";
import { Refused } from "./refusal.ts";
import type { Told } from "./usage.ts";

/** What is to be reserved for, before its body is final. */
export interface Wanted {
  readonly route: string;
  readonly asked: Asked;
  readonly bytes: number;
}

export interface Reserved {
  readonly reservation: Reservation;
  /** Tokens of output that its body has to be limited to, since it does not say and there is a budget. */
  readonly limit: number | null;
}

export type Budget = ReturnType<typeof createBudget>;

/** Dense text has one token in so few bytes; what a run's own requests show counts where it is denser. */
const TOKENS_PER_BYTE = 0.3;
const TOKENS_PER_IMAGE = 5000;
const DOCUMENT_BYTES_PER_TOKEN = 8;
/** Below it the density of a request says nothing. */
const TELLING_BYTES = 4000;
/** For a model that no price list knows. */
const MAX_OUTPUT = 128_000;
/** The least room for an answer that is worth sending a request for. */
const LEAST_OUTPUT = 64;
/** Requests that do not say what they take get half of what is left, but at least that. */
const USUAL_LEAST = 4096;
const HELD_RETRY_S = 2;
const NOTHING: Spent = { requests: 0, input_tokens: 0, output_tokens: 0, usd_nano: 0 };

/**
 * A run's budget: the one place where a request takes what it may cost off it, and gives back what it did not. In between
 * nothing is awaited, and what is reserved is in the journal before the request is sent. So a run is never over its limits, but
 * for this: a request that has begun may finish, and counts what its provider says it took. That is over what was reserved only where its input
 * has more tokens than was estimated, or where the provider's own tools, if they are allowed, added to it.
 */
export function createBudget(journal: Journal, prices: Prices) {
  const held = new Map<CredentialId, Spent>();
  let density = TOKENS_PER_BYTE;

  function hold({ credential, ...cost }: Reservation, sign: 1 | -1): void {
    const before = held.get(credential) ?? NOTHING;
    held.set(credential, {
      requests: before.requests + sign,
      input_tokens: before.input_tokens + sign * cost.input_tokens,
      output_tokens: before.output_tokens + sign * cost.output_tokens,
      usd_nano: before.usd_nano + sign * cost.usd_nano,
    });
  }

  function inputOf({ asked: { media, cache }, bytes }: Wanted): TokenUse {
    const text = bytes - media.imageBytes - media.documentBytes;
    const documents = media.documentBytes / DOCUMENT_BYTES_PER_TOKEN;
    const tokens = Math.ceil(text * density + media.images * TOKENS_PER_IMAGE + documents);
    const none = { input: 0, cacheRead: 0, cacheWrite: 0, cacheWriteLong: 0, output: 0 };
    const where = cache === "none" ? "input" : cache === "short" ? "cacheWrite" : "cacheWriteLong";
    return { ...none, [where]: tokens };
  }

  return {
    /** Throws a Refused when it does not fit. */
    reserve(grant: LlmGrant, wanted: Wanted): Reserved {
      const { credential } = grant;
      const { asked, route } = wanted;
      if (journal.full())
        throw new Refused("budget", "The run has made so many requests that its journal is full.");
      const spent = journal.spent(credential);
      const under = held.get(credential) ?? NOTHING;
      if (grant.max_requests !== null && spent.requests >= grant.max_requests) {
        throw new Refused("budget", `The run's budget of ${grant.max_requests} requests is spent.`);
      }
      const price = priceFor(prices, grant, asked);
      const left = (max: number | null, key: "output_tokens" | "usd_nano") => ({
        max: max ?? Number.POSITIVE_INFINITY,
        now: max === null ? Number.POSITIVE_INFINITY : max - spent[key],
        /** What will be there at most, when what is under way has cost nothing. */
        atMost: max === null ? Number.POSITIVE_INFINITY : max - spent[key] + under[key],
      });
      const tokens = left(grant.max_output_tokens, "output_tokens");
      const usd = left(grant.max_usd_nano, "usd_nano");
      const input = inputOf(wanted);
      const cost = (output: number) =>
        price === null ? 0 : costOf(price, { ...input, output }, asked.modes);

      const isLimited = grant.max_output_tokens !== null || grant.max_usd_nano !== null;
      const room = (tokensLeft: number, usdLeft: number) => Math.min(tokensLeft, affordable(cost, usdLeft));
      const most = price?.maxOutput ?? MAX_OUTPUT;
      const limit =
        asked.maxOutput !== null
          ? null
          : limitFor(Math.floor(room(tokens.now, usd.now) / asked.answers), most);
      const output = asked.answers * (asked.maxOutput ?? limit ?? most);
      const usd_nano = cost(output);
      const least = asked.maxOutput === null ? asked.answers * LEAST_OUTPUT : output;
      const needed = { output_tokens: Math.max(output, least), usd_nano: Math.max(usd_nano, cost(least)) };
      if (needed.output_tokens > tokens.now || needed.usd_nano > usd.now) {
        if (needed.output_tokens <= tokens.atMost && needed.usd_nano <= usd.atMost) {
          throw new Refused("rate", "What is left of the run's budget is held by its requests under way.", {
            retryAfterS: HELD_RETRY_S,
          });
        }
        throw new Refused(
          "budget",
          needed.usd_nano > usd.atMost
            ? `This request may cost ${dollars(needed.usd_nano)} (${output} tokens of output), and ${dollars(usd.atMost)} is left of the run's budget of ${dollars(usd.max)}.`
            : `This request may take ${needed.output_tokens} tokens of output, and ${tokens.atMost} are left of the run's budget of ${tokens.max}.`,
        );
      }
      const reservation = journal.reserve({
        credential,
        model: asked.model,
        route,
        input_tokens: input.input + input.cacheWrite + input.cacheWriteLong,
        output_tokens: output,
        usd_nano,
      });
      hold(reservation, 1);
      return { reservation, limit: isLimited ? limit : null };
    },

    /** For a call that costs nothing but counts. */
    reserveFree(grant: LlmGrant, route: string, model: string): Reservation {
      const { credential, max_requests } = grant;
      if (journal.full() || (max_requests !== null && journal.spent(credential).requests >= max_requests)) {
        throw new Refused("budget", "The run's budget of requests is spent.");
      }
      const reservation = journal.reserve({
        credential,
        model,
        route,
        input_tokens: 0,
        output_tokens: 0,
        usd_nano: 0,
      });
      hold(reservation, 1);
      return reservation;
    },

    /** Once. `told` is what the answer said; null when it cost nothing, "unknown" when nobody knows. */
    settle(
      reservation: Reservation,
      bytes: number,
      told: Told | null | "unknown",
      of: Pick<LlmRecord, "status" | "first_byte_ms" | "duration_ms" | "content">,
    ): void {
      hold(reservation, -1);
      const { credential, model, route } = reservation;
      const price = prices.of(model);
      const { use, usd_nano, estimated } = actual(reservation, told, price);
      const input = use.input + use.cacheRead + use.cacheWrite + use.cacheWriteLong;
      if (bytes >= TELLING_BYTES && !estimated) density = Math.min(1, Math.max(density, input / bytes));
      journal.settle(reservation, {
        kind: "llm",
        credential,
        model,
        route,
        status: of.status,
        input_tokens: use.input,
        output_tokens: use.output,
        cache_read_tokens: use.cacheRead,
        cache_write_tokens: use.cacheWrite + use.cacheWriteLong,
        usd_nano,
        estimated,
        first_byte_ms: of.first_byte_ms,
        duration_ms: of.duration_ms,
        content: of.content,
      });
    },
  };

  function actual(
    { input_tokens, output_tokens, usd_nano }: Reservation,
    told: Told | null | "unknown",
    price: Price | null,
  ): { use: TokenUse; usd_nano: number; estimated: boolean } {
    const none = { input: 0, cacheRead: 0, cacheWrite: 0, cacheWriteLong: 0, output: 0 };
    if (told === null) return { use: none, usd_nano: 0, estimated: false };
    if (told === "unknown") {
      return { use: { ...none, input: input_tokens, output: output_tokens }, usd_nano, estimated: true };
    }
    // An answer that was cut may have cost all that it was let.
    const use = told.final ? told.use : { ...told.use, output: Math.max(told.use.output, output_tokens) };
    const own = price === null ? 0 : costOf(price, use, told.modes);
    const others = told.others.reduce((sum, other) => {
      const otherPrice = (other.model === null ? null : prices.of(other.model)) ?? price;
      return sum + (otherPrice === null ? 0 : costOf(otherPrice, other.use));
    }, 0);
    return { use, usd_nano: own + others, estimated: !told.final };
  }
}

/** Null only where no budget in dollars depends on it. */
function priceFor(prices: Prices, grant: LlmGrant, { model, modes }: Asked): Price | null {
  const price = prices.of(model);
  if (grant.max_usd_nano === null) return price;
  if (price === null) {
    throw new Refused("model", `No price is known for ${model}, and the run has a budget in dollars.`);
  }
  const unknown = modes.find((mode) => price.modes[mode] === undefined);
  if (unknown !== undefined) {
    throw new Refused(
      "request",
      `No price is known for ${model} served as "${unknown}", and the run has a budget in dollars.`,
    );
  }
  return price;
}

/** How many tokens of output so much money is enough for. The price of one grows at most once, so bisecting is exact. */
function affordable(cost: (output: number) => number, usdNano: number): number {
  if (cost(MAX_AFFORDABLE) <= usdNano) return MAX_AFFORDABLE;
  let [enough, tooMany] = [0, MAX_AFFORDABLE];
  while (tooMany - enough > 1) {
    const middle = Math.floor((enough + tooMany) / 2);
    if (cost(middle) <= usdNano) enough = middle;
    else tooMany = middle;
  }
  return enough;
}

const MAX_AFFORDABLE = 1_000_000;

/** Half of what is left, so that others beside it get something, too. */
function limitFor(room: number, most: number): number {
  return Math.max(0, Math.min(most, room, Math.max(USUAL_LEAST, Math.floor(room / 2))));
}

function dollars(nano: number): string {
  return `$${(Math.max(0, nano) / 1e9).toFixed(4)}`;
}

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
  /** Tokens of output that its body has to be limited to, since the budget is not enough for what it says. */
  readonly limit: number | null;
}

/** What became of a request. */
export interface Outcome extends Pick<LlmRecord, "status" | "first_byte_ms" | "duration_ms" | "content"> {
  /** What the answer said; null when it cost nothing, "unknown" when nobody knows. */
  readonly told: Told | null | "unknown";
  /** How long it came in, where it came as a stream: the provider stops when that is cut. */
  readonly streamedMs: number | null;
  /** Of the request. */
  readonly bytes: number;
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
/** An answer of so many tokens is worth being sent for, whatever more the request allows; most have less. */
const WORTH = 4096;
/** The same where a request does not say. */
const LEAST = 64;
const HELD_RETRY_S = 2;
/** Faster than what is sold as the fastest, and what is made before the first event and after the last. */
const TOKENS_PER_S = 2000;
const LEEWAY = 2000;
/** A million dollars: whatever a provider says, what many requests cost together stays a whole number. */
const MAX_NANO = 10 ** 15;
const NO_TOKENS: TokenUse = { input: 0, cacheRead: 0, cacheWrite: 0, cacheWriteLong: 0, output: 0 };
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
    const where = cache === "none" ? "input" : cache === "short" ? "cacheWrite" : "cacheWriteLong";
    return { ...NO_TOKENS, [where]: tokens };
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
      const input = inputOf(wanted);
      const cost = (each: number) =>
        price === null ? 0 : costOf(price, { ...input, output: each * asked.answers }, asked.modes);
      /** Tokens of each answer that what is left is enough for; less than none where not even the input is paid. */
      const room = (of: Spent) =>
        Math.min(
          Math.floor(((grant.max_output_tokens ?? Infinity) - of.output_tokens) / asked.answers),
          affordable(cost, (grant.max_usd_nano ?? Infinity) - of.usd_nano),
        );

      const wish = asked.maxOutput ?? price?.maxOutput ?? MAX_OUTPUT;
      const least = Math.min(wish, Math.max(asked.leastOutput, asked.maxOutput === null ? LEAST : WORTH));
      const now = room(spent);
      if (now < least) {
        const atMost = minus(spent, under);
        if (room(atMost) >= least) {
          throw new Refused("rate", "What is left of the run's budget is held by its requests under way.", {
            retryAfterS: HELD_RETRY_S,
          });
        }
        throw new Refused("budget", tooLittle(grant, atMost, least * asked.answers, cost(least)));
      }
      const each = Math.min(wish, shareOf(now, least, asked.maxOutput !== null && under.requests === 0));
      const usd_nano = cost(each);
      const reservation = journal.reserve({
        credential,
        model: asked.model,
        route,
        input_tokens: input.input + input.cacheWrite + input.cacheWriteLong,
        output_tokens: each * asked.answers,
        usd_nano,
      });
      hold(reservation, 1);
      const isSaid = asked.maxOutput === each || (asked.maxOutput === null && isBoundless(grant));
      return { reservation, limit: isSaid ? null : each };
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

    /** Once. */
    settle(reservation: Reservation, { told, streamedMs, bytes, ...of }: Outcome): void {
      hold(reservation, -1);
      const { credential, model, route } = reservation;
      const price = prices.of(model);
      const { use, usd_nano, estimated } = actual(reservation, told, mostOf(reservation, streamedMs), price);
      const input = use.input + use.cacheRead + use.cacheWrite + use.cacheWriteLong;
      if (bytes >= TELLING_BYTES && !estimated) density = Math.min(1, Math.max(density, input / bytes));
      journal.settle(reservation, {
        kind: "llm",
        credential,
        model,
        route,
        input_tokens: use.input,
        output_tokens: use.output,
        cache_read_tokens: use.cacheRead,
        cache_write_tokens: use.cacheWrite + use.cacheWriteLong,
        usd_nano,
        estimated,
        ...of,
      });
    },
  };

  /** `most`: tokens of output that an answer may have had which did not say. */
  function actual(
    { input_tokens, output_tokens, usd_nano }: Reservation,
    told: Outcome["told"],
    most: number,
    price: Price | null,
  ): { use: TokenUse; usd_nano: number; estimated: boolean } {
    if (told === null) return { use: NO_TOKENS, usd_nano: 0, estimated: false };
    if (told === "unknown") {
      const use = { ...NO_TOKENS, input: input_tokens, output: most };
      // Its input at what it may have cost at most.
      const less = price === null ? 0 : (output_tokens - most) * price.output;
      return { use, usd_nano: Math.max(0, usd_nano - less), estimated: true };
    }
    const use = told.final ? told.use : { ...told.use, output: Math.max(told.use.output, most) };
    const own = price === null ? 0 : costOf(price, use, told.modes);
    const others = told.others.reduce((sum, other) => {
      const otherPrice = (other.model === null ? null : prices.of(other.model)) ?? price;
      return sum + (otherPrice === null ? 0 : costOf(otherPrice, other.use));
    }, 0);
    return { use, usd_nano: Math.min(own + others, MAX_NANO), estimated: !told.final };
  }
}

/** What an answer that was cut may have come to: all that it was let, but no more than any model makes in that time. */
function mostOf({ output_tokens }: Reservation, streamedMs: number | null): number {
  if (streamedMs === null) return output_tokens;
  return Math.min(output_tokens, LEEWAY + Math.ceil((streamedMs / 1000) * TOKENS_PER_S));
}

/** Null only where no budget in dollars depends on it. */
function priceFor(prices: Prices, grant: LlmGrant, { model, modes }: Asked): Price | null {
  const price = prices.of(model);
  if (grant.max_usd_nano === null) return price;
  if (price === null) {
    throw new Refused("model", `No price is known for ${model}, and the run has a budget in dollars.`);
  }
  const unknown = modes.find((mode) => !price.modes.has(mode));
  if (unknown !== undefined) {
    throw new Refused(
      "request",
      `No price is known for ${model} served as "${unknown}", and the run has a budget in dollars.`,
    );
  }
  return price;
}

/** How many tokens of each answer so much money is enough for: more cost more, so bisecting finds it. */
function affordable(cost: (each: number) => number, usdNano: number): number {
  if (cost(0) > usdNano) return -1;
  if (cost(MAX_AFFORDABLE) <= usdNano) return MAX_AFFORDABLE;
  let [enough, tooMany] = [0, MAX_AFFORDABLE];
  while (tooMany - enough > 1) {
    const middle = Math.floor((enough + tooMany) / 2);
    if (cost(middle) <= usdNano) enough = middle;
    else tooMany = middle;
  }
  return enough;
}

/** More than any request may ask for. */
const MAX_AFFORDABLE = 100_000_000;

/** What one request may take of what is left: all when it is alone, else half, so that others beside it get something, too. */
function shareOf(room: number, least: number, isAlone: boolean): number {
  return isAlone ? room : Math.min(room, Math.max(least, WORTH, Math.floor(room / 2)));
}

function isBoundless({ max_output_tokens, max_usd_nano }: LlmGrant): boolean {
  return max_output_tokens === null && max_usd_nano === null;
}

function minus(one: Spent, other: Spent): Spent {
  return {
    requests: one.requests - other.requests,
    input_tokens: one.input_tokens - other.input_tokens,
    output_tokens: one.output_tokens - other.output_tokens,
    usd_nano: one.usd_nano - other.usd_nano,
  };
}

function tooLittle(grant: LlmGrant, spent: Spent, output: number, usdNano: number): string {
  const { max_usd_nano, max_output_tokens } = grant;
  if (max_usd_nano !== null && usdNano > max_usd_nano - spent.usd_nano) {
    const left = dollars(max_usd_nano - spent.usd_nano);
    return `This request may cost ${dollars(usdNano)} (${output} tokens of output), and ${left} is left of the run's budget of ${dollars(max_usd_nano)}.`;
  }
  const left = (max_output_tokens ?? 0) - spent.output_tokens;
  return `This request may take ${output} tokens of output, and ${left} are left of the run's budget of ${max_output_tokens}.`;
}

function dollars(nano: number): string {
  return `$${(Math.max(0, nano) / 1e9).toFixed(4)}`;
}

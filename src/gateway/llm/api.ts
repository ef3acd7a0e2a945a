import type { Dialect } from "../../protocol/gateway.ts";
import type { Body } from "./body.ts";
import type { Media } from "./media.ts";
import { Refused } from "./refusal.ts";
import { fieldsOf, type UsageReader } from "./usage.ts";

/** What a request asks for, as far as the gateway has a say in it. */
export interface Asked {
  readonly model: string;
  readonly stream: boolean;
  /** Tokens of each of its answers at most; null when it does not say. */
  readonly maxOutput: number | null;
  /** Less than so many make no sense to it. */
  readonly leastOutput: number;
  readonly answers: number;
  /** What makes its price another one. */
  readonly modes: readonly string[];
  /** How long it has its input put in the provider's cache. */
  readonly cache: "none" | "short" | "long";
  readonly media: Readonly<Media>;
  /** Models that it names besides, for the provider to ask. */
  readonly others: readonly string[];
  /** What the provider is to do or fetch by itself, as "the tool web_search"; null for nothing. */
  readonly providerSide: string | null;
}

export interface Accounted {
  readonly body: Body;
  /** Tells the event that comes because of it, and that the caller did not ask for. */
  readonly isExtra: ((data: unknown) => boolean) | null;
}

/** One of the providers' calls that costs tokens. */
export interface Api {
  readonly route: string;
  readonly dialect: Dialect;
  /** Throws a Refused for what makes no sense. */
  judge(body: Body): Asked;
  /** With so many tokens of output at most, whatever it says. `isOpenAi`: the provider is OpenAI itself. */
  withLimit(body: Body, tokens: number, isOpenAi: boolean): Body;
  /** What else has to be in the body for the answer to say what it cost. */
  accounted(body: Body, asked: Asked): Accounted;
  usage(): UsageReader;
}

const MAX_MODEL = 200;

export function modelOf({ json }: Body): string {
  const { model } = json;
  if (typeof model !== "string" || model === "" || model.length > MAX_MODEL) {
    throw new Refused("request", "The request names no model.");
  }
  return model;
}

export function flagOf({ json }: Body, key: string): boolean {
  const value = json[key] ?? false;
  if (typeof value !== "boolean")
    throw new Refused("request", `The request's ${key} is neither true nor false.`);
  return value;
}

export function numberOf({ json }: Body, key: string): number | null {
  const value = json[key] ?? null;
  if (value === null) return null;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0 || value > 100_000_000) {
    throw new Refused("request", `The request's ${key} is not a number that makes sense.`);
  }
  return value;
}

/** A number of tokens of output. None at all is "as many as you like" to some servers, and nothing to ask for. */
export function limitOf(body: Body, key: string): number | null {
  const limit = numberOf(body, key);
  if (limit === 0) throw new Refused("request", `The request's ${key} is 0.`);
  return limit;
}

/** A list; anything else is the provider's to refuse. */
export function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** Models beside the one that is asked: to fall back on, or of a tool. */
export function otherModels({ json }: Body): string[] {
  return [json["models"], json["fallbacks"], json["tools"]]
    .flatMap(listOf)
    .map((one) => (typeof one === "string" ? one : fieldsOf(one)["model"]))
    .filter((model) => typeof model === "string");
}

/** Whether a key is there with something in it. */
export function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null && !(Array.isArray(value) && value.length === 0);
}

import { z } from "zod";
import { AppError } from "../../errors.ts";
import type { Dialer } from "../../net/dial.ts";
import { innermost, kindOf, parseAddress } from "../../net/ranges.ts";
import { parseTarget, vet, type Target, type Vetting } from "../../net/target.ts";
import type { Dialect } from "../../protocol/gateway.ts";
import { requestHeaders } from "./headers.ts";
import { Refused } from "./refusal.ts";

/** What was sealed of a credential: the URL too, so that nobody but the admin says where the secret goes. */
const provider = z.object({ secret: z.string().regex(/^[\x21-\x7e]+$/), base_url: z.string() });
export type Provider = z.infer<typeof provider>;

export function openProvider(plain: unknown): Provider {
  const parsed = provider.safeParse(plain);
  // Without a cause: it would hold the secret.
  if (!parsed.success) throw new Refused("credential", "The provider's credential can't be used.");
  return parsed.data;
}

export interface Timeouts {
  readonly connectMs: number;
  readonly firstByteMs: number;
  readonly idleMs: number;
}

export const TIMEOUTS: Timeouts = { connectMs: 10_000, firstByteMs: 600_000, idleMs: 300_000 };

export interface Outgoing {
  readonly provider: Provider;
  readonly dialect: Dialect;
  readonly route: string;
  readonly given: Request;
  readonly body: string | null;
  readonly abort: AbortController;
}

export interface UpstreamParts {
  readonly dialer: Pick<Dialer, "request">;
  readonly vetting: Vetting;
  readonly timeouts: Timeouts;
}

/**
 * Sends a request to its provider, once. `onSent` is told when it leaves: until then it has cost nothing. Throws a Refused when
 * there is no answer.
 */
export function createUpstream({ dialer, vetting, timeouts }: UpstreamParts) {
  return async (outgoing: Outgoing, onSent: () => void): Promise<Response> => {
    const { provider, dialect, given, body, abort } = outgoing;
    const credential =
      dialect === "anthropic"
        ? { name: "x-api-key", value: provider.secret }
        : { name: "authorization", value: `Bearer ${provider.secret}` };
    const headers = requestHeaders(given.headers, credential);
    const timer = { current: setTimeout(() => abort.abort(CONNECT), timeouts.connectMs) };
    const sent = () => {
      clearTimeout(timer.current);
      timer.current = setTimeout(() => abort.abort(FIRST_BYTE), timeouts.firstByteMs);
      onSent();
    };
    try {
      const target = targetOf(outgoing);
      const address = await addressOf(target, vetting);
      abort.signal.throwIfAborted();
      if (body === null) {
        sent();
        return await dialer.request(target, address, { method: "GET", headers, signal: abort.signal });
      }
      const bytes = new TextEncoder().encode(body);
      headers["content-length"] = String(bytes.length);
      return await dialer.request(target, address, {
        method: "POST",
        headers,
        body: onceConnected(bytes, sent),
        signal: abort.signal,
      });
    } catch (error) {
      throw refused(provider, error, timeouts);
    } finally {
      clearTimeout(timer.current);
    }
  };
}

const CONNECT = Symbol("not connected in time");
const FIRST_BYTE = Symbol("no answer in time");

function targetOf({ provider, dialect, route, given }: Outgoing): Target {
  const base = parseTarget(provider.base_url, { allowHttp: true });
  const { origin, pathname } = new URL(base.href);
  const below = pathname.replace(/\/+$/, "");
  // OpenAI's clients put /v1 in the base URL, and Anthropic's do not.
  const path =
    dialect === "anthropic"
      ? below.replace(/\/v1$/, "") + route
      : (below === "" ? "/v1" : below) + route.replace(/^\/v1/, "");
  const query = new URLSearchParams(
    new URL(given.url).searchParams
      .entries()
      .filter(([name]) => !/key|token|secret/i.test(name))
      .toArray(),
  ).toString();
  const search = query === "" ? "" : `?${query}`;
  return parseTarget(origin + path + search, { allowHttp: true });
}

async function addressOf(target: Target, vetting: Vetting) {
  const [address] = await vet(target, vetting);
  const parsed = parseAddress(address);
  if (!target.secure && (parsed === null || kindOf(innermost(parsed)) === "public")) {
    throw new AppError(
      "invalid",
      "The URL would send the credential in the clear; it must start with https://.",
    );
  }
  return address;
}

/** A body whose first bytes are asked for when the connection stands, TLS and all. */
function onceConnected(bytes: Uint8Array, sent: () => void): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        sent();
        controller.enqueue(bytes);
        controller.close();
      },
    },
    { highWaterMark: 0 },
  );
}

function refused({ base_url }: Provider, error: unknown, { connectMs, firstByteMs }: Timeouts): Refused {
  const at = `The model's provider, ${URL.parse(base_url)?.host ?? "which has no host"},`;
  if (error === CONNECT) {
    return new Refused("unreachable", `${at} could not be connected to within ${connectMs / 1000} s.`);
  }
  if (error === FIRST_BYTE) {
    return new Refused("timeout", `${at} did not begin an answer within ${firstByteMs / 1000} s.`);
  }
  if (error instanceof AppError) {
    return new Refused("unreachable", `${at} can't be called: ${error.message}`, { cause: error });
  }
  return new Refused("unreachable", `${at} was not asked to the end: the call was ended.`);
}

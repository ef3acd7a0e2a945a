import { X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { isLoopback, isWildcard } from "../../config/listen.ts";
import { AppError } from "../../errors.ts";
import type { Log } from "../../log.ts";
import type { Check } from "../../protocol/sandboxd.ts";
import type { Pair } from "../../tls/pair.ts";
import { readPublishedPair } from "../../tls/published.ts";

/** What certbot renews by is 30 days: with half of that left, renewing does not work. */
const WARN_DAYS = 14;
const NOT_TAKEN = "the certificate is not taken; the one before stays";
const DAY_MS = 24 * 3600 * 1000;

/** The certificate of the TCP listener, as root publishes it. Throws when there is none that is good. */
export function createCertificate(path: string, log: Log) {
  const first = readPublishedPair(path);
  if (first === null || first.pair === null) {
    throw new AppError(
      "invalid",
      first?.fault ?? `The certificate is not in ${path}; start api by its unit or by serve.`,
    );
  }
  if (first.fault !== null) log.error(NOT_TAKEN, { fault: first.fault });
  const state = {
    pair: first.pair,
    fault: first.fault,
    x509: new X509Certificate(first.pair.cert),
    last: Promise.resolve<string | null>(null),
  };

  async function refresh(use: (pair: Pair) => Promise<void>): Promise<string | null> {
    const { pair, fault } = readPublishedPair(path) ?? state;
    if (fault !== null && fault !== state.fault) log.error(NOT_TAKEN, { fault });
    state.fault = fault;
    if (pair !== null && (pair.cert !== state.pair.cert || pair.key !== state.pair.key)) {
      const x509 = new X509Certificate(pair.cert);
      await use(pair);
      Object.assign(state, { pair, x509 });
      log.info("the certificate is new", { until: x509.validTo });
    }
    return fault;
  }

  return {
    pair: (): Pair => state.pair,
    names: () => namesOf(state.x509),
    covers: (host: string) => covers(state.x509, host),
    check: (hostname: string) => certificateCheck({ ...state, hostname, now: Date.now() }),

    /** Hands a pair that is new to `use`, and returns what is wrong with the files, if anything is. One at a time. */
    refresh(use: (pair: Pair) => Promise<void>): Promise<string | null> {
      const next = state.last.then(() => refresh(use));
      state.last = next.catch(() => null);
      return next;
    },
  };
}

interface Judged {
  readonly x509: X509Certificate;
  /** What is wrong with the files, which then are others than this certificate. */
  readonly fault: string | null;
  /** Where the API listens. */
  readonly hostname: string;
  readonly now: number;
}

/** For `doctor`. */
export function certificateCheck({ x509, fault, hostname, now }: Judged): Check {
  const [from, until] = [Date.parse(x509.validFrom), Date.parse(x509.validTo)];
  const days = Math.floor((until - now) / DAY_MS);
  const names = namesOf(x509);
  const what = names.length === 0 ? "for no name" : `for ${names.join(", ")}`;
  const found = (status: Check["status"], detail: string, fix: string | null): Check => ({
    name: "certificate",
    status,
    detail,
    fix,
  });
  const renew =
    "Renew it: new files under the names in [http] tls_cert and tls_key are taken within some 10 seconds.";
  if (now >= until) return found("fail", `${what}; it expired on ${day(until)}`, renew);
  if (now < from)
    return found("fail", `${what}; it is not valid before ${day(from)}`, "Set the clock, or take another.");
  if (fault !== null) {
    return found(
      "fail",
      `${fault} The one before is in use, until ${day(until)}.`,
      "Put right what is named.",
    );
  }
  const valid = `${what}; ${days} days left, until ${day(until)}`;
  if (days < WARN_DAYS) return found("warn", valid, renew);
  if (names.length === 0 || (isPublic(hostname) && !covers(x509, hostname))) {
    return found(
      "warn",
      `${valid}; not for ${hostname}, where the API listens`,
      "Clients refuse it: take one for the name that they call.",
    );
  }
  return found("ok", valid, null);
}

function day(time: number): string {
  return new Date(time).toISOString().slice(0, 10);
}

/** An address or name that clients call, rather than all of them or this host alone. */
function isPublic(hostname: string): boolean {
  return !isLoopback(hostname) && !isWildcard(hostname);
}

function namesOf(x509: X509Certificate): string[] {
  const names = (x509.subjectAltName ?? "")
    .split(", ")
    .map((name) => /^(?:DNS|IP Address):(.+)$/.exec(name)?.[1]);
  return names.filter((name) => name !== undefined);
}

/** `host` without a port; an IPv6 address may be in brackets. */
function covers(x509: X509Certificate, host: string): boolean {
  const bare = host.replace(/^\[(.*)\]$/, "$1");
  return (isIP(bare) === 0 ? x509.checkHost(bare, { subject: "never" }) : x509.checkIP(bare)) !== undefined;
}

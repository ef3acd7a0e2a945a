import { AppError } from "../../errors.ts";
import { STYLE_HASH } from "./html.ts";
import { errorResponse } from "../http/errors.ts";
import type { Html } from "../http/html.ts";

/**
 * Nothing is loaded, run or framed; the form goes nowhere but here; nothing of the page is kept. Without a referrer a
 * browser sends `Origin: null` with the form, see checkSameSite.
 */
const HEADERS: Readonly<Record<string, string>> = {
  "content-type": "text/html; charset=utf-8",
  "content-security-policy": `default-src 'none'; style-src '${STYLE_HASH}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'`,
  "x-frame-options": "DENY",
  "x-content-type-options": "nosniff",
  "cache-control": "no-store",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
};

/** The page, with the status of the error that it tells of. */
export function page({ markup }: Html, error?: AppError): Response {
  if (error === undefined) return new Response(markup, { headers: HEADERS });
  const { status, headers } = errorResponse(error);
  const retryAfter = headers.get("retry-after");
  const extra = retryAfter === null ? {} : { "retry-after": retryAfter };
  return new Response(markup, { status, headers: { ...HEADERS, ...extra } });
}

/**
 * No other site may send the form, though it would need an admin key or a confirmation for it to do anything. A browser
 * of today says by Sec-Fetch-Site where it comes from (over TLS and to loopback); an older one by Origin; what sends
 * neither is no browser. The same rules as Go's http.CrossOriginProtection.
 */
export function checkSameSite({ headers }: Request, ownHost: string): void {
  const site = headers.get("sec-fetch-site");
  if (site === "same-origin" || site === "none") return;
  const origin = headers.get("origin");
  if (site === null && (origin === null || URL.parse(origin)?.host === ownHost)) return;
  throw new AppError(
    "forbidden",
    "This form was sent by another site, or in the clear. Open this page itself, over https.",
  );
}

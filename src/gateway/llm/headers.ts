/**
 * What the providers' own clients and agents say of themselves and want of the answer. Nothing else: with a header of its own
 * many a relay between is told where to send a request, credential and all.
 */
const SENT =
  /^(accept|accept-language|user-agent|anthropic-(version|beta|dangerous-direct-browser-access)|openai-beta|idempotency-key|originator|version|(session|conversation)[_-]id|x-app|x-(client-)?request-id|x-(stainless|claude|codex)-.*)$/;

/** With the real credential in the place of the run's token. */
export function requestHeaders(
  given: Headers,
  credential: { readonly name: string; readonly value: string },
): Record<string, string> {
  const named = namedByConnection(given);
  const headers: Record<string, string> = {};
  for (const [name, value] of given) {
    if (SENT.test(name) && !named.has(name)) headers[name] = value;
  }
  headers["content-type"] = "application/json";
  headers[credential.name] = credential.value;
  return headers;
}

/** Of one connection only, or what tells of the account behind the credential. */
const NEVER_PASSED =
  /^(connection|keep-alive|te|trailer|transfer-encoding|upgrade|content-length|set-cookie|set-cookie2|alt-svc|strict-transport-security|server|nel|report-to|via|date|location|www-authenticate|openai-organization|openai-project|anthropic-organization-id|(proxy|cf|access-control|x-forwarded)-.*)$/;

export function answerHeaders(given: Headers): Headers {
  const named = namedByConnection(given);
  const headers = new Headers();
  for (const [name, value] of given) {
    if (!NEVER_PASSED.test(name) && !named.has(name)) headers.set(name, value);
  }
  return headers;
}

function namedByConnection(headers: Headers): Set<string> {
  const names = (headers.get("connection") ?? "").split(",");
  return new Set(names.map((name) => name.trim().toLowerCase()));
}

import { hostAndPort, type Endpoint } from "../../config/listen.ts";
import { AppError } from "../../errors.ts";
import { errorResponse } from "./errors.ts";
import { isHost } from "./forwarded.ts";
import { setCautious } from "./headers.ts";
import { bind, type BunServer } from "./listener.ts";

export interface RedirectParts {
  readonly endpoint: Endpoint;
  readonly httpsPort: number;
  /** Whether the certificate is for this host. */
  readonly covers: (host: string) => boolean;
}

const IDLE_S = 10;

/** Plain HTTP that only says where to go. */
export function openRedirect(parts: RedirectParts): BunServer {
  return bind(`the address ${hostAndPort(parts.endpoint)}`, () =>
    Bun.serve({
      ...parts.endpoint,
      fetch(request) {
        const response = redirect(request, parts);
        setCautious(response.headers);
        return response;
      },
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      idleTimeout: IDLE_S,
      development: false,
      reusePort: false,
    }),
  );
}

/**
 * The place to go to is one that the certificate is for, so that nobody is sent elsewhere. What is no GET may have had
 * a key and a body in it, and a client that was redirected would not notice that it sends them in the clear each time.
 */
function redirect(request: Request, { httpsPort, covers }: Omit<RedirectParts, "endpoint">): Response {
  const host = request.headers.get("host") ?? "";
  const name = host.replace(/:\d+$/, "");
  if (!isHost(host) || !covers(name)) {
    return errorResponse(
      new AppError("bad_input", "Call the appliance by a name that its certificate is for."),
    );
  }
  const origin = `https://${name}${httpsPort === 443 ? "" : `:${httpsPort}`}`;
  const exposed = `What you sent went over the network in the clear: revoke the key that was in it, and use ${origin}.`;
  if (request.method !== "GET" && request.method !== "HEAD")
    return errorResponse(new AppError("forbidden", exposed));
  const { pathname, search } = new URL(request.url);
  const detail = request.headers.has("authorization") ? exposed : `This is at ${origin}.`;
  return Response.json({ detail }, { status: 308, headers: { location: `${origin}${pathname}${search}` } });
}

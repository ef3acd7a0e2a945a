import type { BunRequest, Server } from "bun";

/**
 * Bun resolves `..`, `%2e%2e` and `\` in a URL before a handler sees it, so /files/a/../b would quietly write "b".
 * Its own router, though, matches the target as it was sent and keeps the segments, decoded once, in `params`. A path
 * is as sent when both tell the same.
 */
const MAX_SEGMENTS = 64;
const STRAY_PERCENT = /%(?![0-9a-f]{2})/i;

type Handler = (request: Request, server: Server<undefined>) => Promise<Response>;

/** Routes for Bun.serve: paths under /files that nothing was folded in go to `accept`, others to `refuse`. */
export function fileRouteTable(accept: Handler, refuse: Handler): Record<string, Handler> {
  const check = (prefix: string) => (request: Request, server: Server<undefined>) => {
    const { params, url } = request as BunRequest;
    return isAsSent(url, prefix, Object.values(params)) ? accept(request, server) : refuse(request, server);
  };
  // What no route below takes: empty segments, and more of them than a path may have.
  const table: Record<string, Handler> = { "/files/*": refuse };
  // "/workspace/a" is one of the ways to spell "a", so that it may follow "/files/" whole.
  for (const prefix of ["/files/", "/files//workspace/"]) {
    for (let count = 1; count <= MAX_SEGMENTS; count++) {
      const segments = Array.from({ length: count }, (_, index) => `:s${index}`);
      table[prefix + segments.join("/")] = check(prefix);
    }
  }
  return table;
}

function isAsSent(url: string, prefix: string, segments: readonly string[]): boolean {
  // With a Host header that is none, it is no URL.
  const pathname = URL.parse(url)?.pathname ?? "";
  const found = pathname.slice(prefix.length).split("/");
  return (
    pathname.startsWith(prefix) &&
    found.length === segments.length &&
    found.every((segment, index) => isSame(segment, segments[index] ?? ""))
  );
}

/** Whether Bun's router saw this segment. It loses what stands behind a percent sign that begins no escape. */
function isSame(segment: string, seen: string): boolean {
  const stray = segment.search(STRAY_PERCENT);
  try {
    if (stray === -1) return decodeURIComponent(segment) === seen;
    return seen.startsWith(`${decodeURIComponent(segment.slice(0, stray))}\ufffd`);
  } catch {
    // Not UTF-8.
    return false;
  }
}

/** Whether a path that came to no route above only looks like one of /files because something was folded in it. */
export function isFolded(url: string): boolean {
  const pathname = URL.parse(url)?.pathname;
  return pathname === "/files" || pathname?.startsWith("/files/") === true;
}

export interface Connect {
  readonly kind: "connect";
  readonly host: string;
  readonly port: number;
  readonly authorization: string | null;
  /** What came after it. */
  readonly rest: Buffer;
}

/** What a client of the web proxy asks for, before any byte of its own. */
export type Head =
  | { readonly kind: "incomplete" }
  | Connect
  | { readonly kind: "other"; readonly status: 400 | 405 | 431; readonly why: string };

/** Of a request line and all headers. */
const MAX_HEAD_BYTES = 16 * 1024;
const END = Buffer.from("\r\n\r\n");

const other = (status: 400 | 405 | 431, why: string): Head => ({ kind: "other", status, why });

export function readHead(bytes: Buffer): Head {
  const end = bytes.indexOf(END);
  if (end === -1 ? bytes.length >= MAX_HEAD_BYTES : end > MAX_HEAD_BYTES) {
    return other(431, "The request's head is too long.");
  }
  if (end === -1) return { kind: "incomplete" };
  const [first = "", ...lines] = bytes.toString("latin1", 0, end).split("\r\n");
  const [, method = "", target = ""] = /^([A-Z]{1,20}) (\S{1,2000}) HTTP\/1\.[01]$/.exec(first) ?? [];
  if (method === "") return other(400, "This is not a request that the proxy understands.");
  if (method !== "CONNECT") {
    return other(
      405,
      "The proxy carries https only, by CONNECT; plain http would be read and changed on its way.",
    );
  }
  const authority = /^(.+):(\d{1,5})$/.exec(target);
  const port = Number(authority?.[2] ?? 0);
  if (authority?.[1] === undefined || port < 1 || port > 65_535) {
    return other(400, "CONNECT wants HOST:PORT.");
  }
  // A head that two read differently is nobody's.
  const headers = lines.map((line) => /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*$/.exec(line));
  if (headers.includes(null)) return other(400, "The request has a header that is not one.");
  const shown = headers.filter((header) => header?.[1]?.toLowerCase() === "proxy-authorization");
  return {
    kind: "connect",
    host: authority[1],
    port,
    // Of several, none: but something was shown.
    authorization: shown.length > 1 ? "" : (shown[0]?.[2] ?? null),
    rest: bytes.subarray(end + END.length),
  };
}

import { FLUSH, packet } from "./packets.ts";

/** What a person sees of a refusal depends on where git looks for it: each of these is where it does. */

/** git shows a text/plain body only when it asks which refs there are; elsewhere just the status. */
export function plain(status: number, text: string): Response {
  return new Response(`${text}\n`, {
    status,
    headers: { "content-type": "text/plain; charset=utf-8", "cache-control": "no-store" },
  });
}

/** git says "fatal: remote error: …", in every version of the protocol. */
export function fetchError(text: string): Response {
  return result("git-upload-pack", packet(`ERR ${text}`));
}

export interface PushReport {
  readonly capabilities: readonly string[];
  /** "ok", or what is wrong with all of it. */
  readonly unpack: string;
  /** Why each was not taken. */
  readonly refs: readonly { readonly ref: string; readonly why: string }[];
  /** Shown after "remote: ", a line each. */
  readonly explanation: readonly string[];
}

/** Of a sideband packet: its band's byte and the length take a bit. */
const MAX_BAND_BYTES = 65_515;

/**
 * A push that failed, as the server itself would say it: git prints "! [remote rejected] … (why)" for each ref. It has to
 * be a 200: after a 403 git says "Everything up-to-date".
 */
export function pushRefused({ capabilities, unpack, refs, explanation }: PushReport): Response {
  const report = Buffer.concat([
    packet(`unpack ${unpack}\n`),
    ...refs.map(({ ref, why }) => packet(Buffer.from(`ng ${ref} ${why}\n`, "latin1"))),
    FLUSH,
  ]);
  if (!capabilities.includes("side-band-64k")) return result("git-receive-pack", report);
  const bands = [
    ...explanation.map((line) => packet("\u0002", `${line}\n`)),
    ...pieces(report).map((piece) => packet("\u0001", piece)),
  ];
  return result("git-receive-pack", Buffer.concat([...bands, FLUSH]));
}

function pieces(bytes: Buffer): Buffer[] {
  const count = Math.ceil(bytes.length / MAX_BAND_BYTES);
  return Array.from({ length: count }, (_, at) =>
    bytes.subarray(at * MAX_BAND_BYTES, (at + 1) * MAX_BAND_BYTES),
  );
}

function result(service: string, body: Buffer): Response {
  return new Response(new Uint8Array(body), { headers: headersOf(service, "result") });
}

export function headersOf(service: string, kind: "advertisement" | "result") {
  return { "content-type": `application/x-${service}-${kind}`, "cache-control": "no-cache" };
}

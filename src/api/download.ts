import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import type { Lease } from "../keys/calls.ts";
import type { OpenFile } from "../volumes/read.ts";
import { errorResponse } from "./http/errors.ts";
import { namesTag, rangeOf } from "./http/range.ts";

/** The most that one answer carries; Range reaches what is behind. */
const MAX_BYTES = 100 * 1024 * 1024;
/** Up to here an answer is read as a whole, and so has a Content-Length; Bun sends what is streamed in chunks. */
const WHOLE_BYTES = 1024 * 1024;

type DownloadLease = Pick<Lease<NamespaceId | null>, "signal" | "extend">;

/** Answers with the file, or the part that is asked for, and sees to it that the file is closed. */
export async function download(file: OpenFile, request: Request, lease: DownloadLease): Promise<Response> {
  const kept = { open: false };
  try {
    return await answer(file, request, lease, () => void (kept.open = true));
  } finally {
    if (!kept.open) await file.close();
  }
}

async function answer(
  file: OpenFile,
  request: Request,
  lease: DownloadLease,
  keepOpen: () => void,
): Promise<Response> {
  const { size } = file.status;
  const tag = tagOf(file);
  const headers: Record<string, string> = {
    "accept-ranges": "bytes",
    "content-type": "application/octet-stream",
    // A tenant's file must never run as a page of this server's.
    "content-disposition": "attachment",
    "content-security-policy": "sandbox; default-src 'none'",
    // By who asked for it, who has to ask whether it is still the same.
    "cache-control": "private, no-cache",
    etag: tag,
    "x-trove-size": String(size),
  };
  const known = request.headers.get("if-none-match");
  if (known !== null && namesTag(known, tag))
    return new Response(null, { status: 304, headers: { etag: tag, "cache-control": "private, no-cache" } });

  const part = wantedPart(request, tag, size);
  if (part === "unsatisfiable") {
    const detail = `The file has ${size} bytes; the Range asks for what is behind them.`;
    return errorResponse(new AppError("range_not_satisfiable", detail), {
      "content-range": `bytes */${size}`,
    });
  }
  const { start } = part ?? { start: 0 };
  const wanted = part?.end ?? size;
  const end = Math.min(wanted, start + MAX_BYTES);
  if (end < wanted) headers["x-trove-truncated"] = "1";
  if (part !== null) headers["content-range"] = `bytes ${start}-${end - 1}/${size}`;
  const status = part === null ? 200 : 206;
  const length = end - start;

  if (request.method === "HEAD") {
    return new Response(null, { status, headers: { ...headers, "content-length": String(length) } });
  }
  if (length <= WHOLE_BYTES) {
    const bytes = await file.bytes(start, length);
    if (bytes.length < length) throw new AppError("conflict", `${file.path} is being changed; try again.`);
    return new Response(bytes, { status, headers });
  }
  const { body, done } = file.stream(start, length, lease.signal);
  keepOpen();
  lease.extend(done);
  return new Response(body, { status, headers });
}

function wantedPart(request: Request, tag: string, size: number) {
  const condition = request.headers.get("if-range");
  if (condition !== null && condition.trim() !== tag) return null;
  return rangeOf(request.headers.get("range"), size);
}

/** Another tag for any other content: a file that the API wrote is another inode, one that a command changed has another time. */
function tagOf(file: OpenFile): string {
  const { inode, size, modifiedNs, changedNs } = file.status;
  return `"${[inode, BigInt(size), modifiedNs, changedNs].map((part) => part.toString(36)).join("-")}"`;
}

import { wholeCharacters } from "../utf8.ts";
import type { OpenFile } from "./read.ts";
import { isoTime } from "./time.ts";

const PREVIEW_BYTES = 1024 * 1024;

/** A file as text, when it is text. */
export interface Content {
  readonly path: string;
  readonly size_bytes: number;
  readonly modified_at: string;
  readonly encoding: "utf-8" | "binary";
  readonly content: string | null;
  readonly truncated: boolean;
}

export async function previewOf(file: OpenFile): Promise<Content> {
  const { size, modifiedNs } = file.status;
  const truncated = size > PREVIEW_BYTES;
  const head = await file.bytes(0, Math.min(size, PREVIEW_BYTES));
  // What no character begins with stays, so that the file shows as binary.
  const content = textOf(truncated ? head.subarray(0, wholeCharacters(head)) : head);
  return {
    path: file.path,
    size_bytes: size,
    modified_at: isoTime(modifiedNs),
    encoding: content === null ? "binary" : "utf-8",
    content,
    truncated,
  };
}

/** null for what is not text: it has a NUL, or is not UTF-8. A byte order mark is part of the text. */
function textOf(bytes: Uint8Array): string | null {
  if (bytes.includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

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

/** The length of `bytes` without a character that is cut off at the end. */
function wholeCharacters(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0;
    // A continuation byte: the character began before it.
    if ((byte & 0xc0) === 0x80) continue;
    // What no character begins with stays, so that the file shows as binary.
    const length = byte > 0xf4 || byte < 0xc2 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    return length > back ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}

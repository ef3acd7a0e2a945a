import { z } from "zod";
import { AppError } from "../errors.ts";

/** For every JSON body but a file's content. */
const SMALL_BODY_BYTES = 4 * 1024 * 1024;

/** No body has so many; see isSimple, which leaves out bodies too short to do harm. */
const MAX_VALUES = 10_000;
const HARMLESS_BYTES = 64 * 1024;

/** JSON's signs. */
const QUOTE = 0x22;
const COMMA = 0x2c;
const OPEN_ARRAY = 0x5b;
const BACKSLASH = 0x5c;
const OPEN_OBJECT = 0x7b;

/**
 * A string that UTF-8 can carry. JSON can spell half of a surrogate pair, which would silently become U+FFFD on disk
 * or in a command.
 */
export const text = z
  .string()
  .refine((value) => value.isWellFormed(), "has half of a surrogate pair, which UTF-8 cannot hold");

/** A name that people give to something and read in lists. */
export const label = text
  .trim()
  .min(1, "must not be empty")
  .max(200, "has more than 200 characters")
  .regex(/^\P{Cc}*$/u, "has a control character");

/** Reads at most `maxBytes` of JSON and checks its shape. Nothing of a body that announces more is read. */
export async function readJson<S extends z.ZodType>(
  request: Request,
  schema: S,
  maxBytes: number = SMALL_BODY_BYTES,
): Promise<z.infer<S>> {
  const bytes = await readBounded(request, maxBytes);
  if (!isSimple(bytes)) throw new AppError("invalid", `The body has more than ${MAX_VALUES} values.`);
  let source: string;
  try {
    source = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new AppError("not_text", "The body has to be UTF-8.", { cause: error });
  }
  let value: unknown;
  try {
    value = JSON.parse(source);
  } catch (error) {
    throw new AppError("bad_input", "The body has to be JSON.", { cause: error });
  }
  const result = schema.safeParse(value, { reportInput: true });
  if (!result.success) throw new AppError("invalid", shapeDetail(result.error));
  return result.data;
}

/** 413 when Content-Length tells that the body is too large; what it does not tell is found out while reading. */
function checkLength(request: Request, maxBytes: number): void {
  const announced = request.headers.get("content-length");
  if (announced !== null && Number(announced) > maxBytes) throw tooLarge(maxBytes);
}

async function readBounded(request: Request, maxBytes: number): Promise<Uint8Array> {
  checkLength(request, maxBytes);
  // Bun has counted an announced length already, so that only a chunked body needs counting here.
  if (request.headers.has("content-length")) return request.bytes();
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body ?? []) {
    size += chunk.byteLength;
    if (size > maxBytes) throw tooLarge(maxBytes);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

/**
 * Whether JSON has few values, however long they are. As objects, 32 MiB of brackets take a gigabyte, and the event loop
 * for seconds, before a schema gets to see them.
 */
function isSimple(json: Uint8Array): boolean {
  if (json.length <= HARMLESS_BYTES) return true;
  let values = 0;
  let inString = false;
  for (let at = 0; at < json.length; at++) {
    const byte = json[at];
    if (byte === QUOTE) inString = !inString;
    else if (inString) {
      if (byte === BACKSLASH) at++;
    } else if (byte === COMMA || byte === OPEN_ARRAY || byte === OPEN_OBJECT) {
      values++;
      if (values > MAX_VALUES) return false;
    }
  }
  return true;
}

function tooLarge(maxBytes: number): AppError {
  return new AppError("too_large", `The body is larger than the ${maxBytes} bytes allowed here.`);
}

function shapeDetail(error: z.ZodError): string {
  const issue = error.issues[0];
  if (issue === undefined) return "The body does not have the expected fields.";
  const field = issue.path.length === 0 ? "The body" : `The field "${issue.path.join(".")}"`;
  return `${field}: ${wanted(issue)}.`.replace(/\.\.$/, ".");
}

function wanted(issue: z.core.$ZodIssue): string {
  if (issue.code !== "invalid_type") return issue.message;
  if (issue.input === undefined) return "is missing";
  return `expected ${/^[aeio]/.test(issue.expected) ? "an" : "a"} ${issue.expected}`;
}

import { z } from "zod";
import { AppError } from "../../errors.ts";
import { parseJson } from "./json.ts";

/** For every JSON body but a file's content. */
const SMALL_BODY_BYTES = 4 * 1024 * 1024;

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
  const body = parseJson(await readBounded(request, maxBytes));
  const result = schema.safeParse(body, { reportInput: true, error: inWords });
  if (!result.success) throw new AppError("invalid", shapeDetail(result.error));
  return result.data;
}

/** The fields of a form that a browser sent, each once. */
export async function readForm(request: Request, maxBytes: number): Promise<ReadonlyMap<string, string>> {
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/x-www-form-urlencoded\s*(;|$)/i.test(type)) {
    throw new AppError("not_text", "The body has to be application/x-www-form-urlencoded.");
  }
  const fields = [...new URLSearchParams(new TextDecoder().decode(await readBounded(request, maxBytes)))];
  const form = new Map(fields);
  if (form.size !== fields.length) throw new AppError("bad_input", "The form has a field twice.");
  return form;
}

/** 413 when Content-Length tells that the body is too large; what it does not tell is found out while reading. */
function checkLength(request: Request, maxBytes: number): void {
  const announced = request.headers.get("content-length");
  if (announced !== null && Number(announced) > maxBytes) throw tooLarge(maxBytes);
}

/** All of a body of at most so many bytes. */
export async function readBounded(request: Request, maxBytes: number): Promise<Uint8Array> {
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
  if (issue.code === "unrecognized_keys") return `has no field ${shownField(issue.keys[0] ?? "")}`;
  if (issue.code !== "invalid_type") return issue.message;
  if (issue.input === undefined) return "is missing";
  return `expected ${/^[aeio]/.test(issue.expected) ? "an" : "a"} ${issue.expected}`;
}

/** What zod would say otherwise than the rest of our sentences; a schema's own words go before it. */
function inWords(issue: z.core.$ZodRawIssue): string | undefined {
  if (issue.code === "invalid_value") return oneOf(issue.values);
  // Of a union that is told apart by one field.
  if (issue.code === "invalid_union" && Array.isArray(issue.options)) return oneOf(issue.options);
  if (issue.code === "invalid_key") return issue.issues[0]?.message;
  if (issue.code === "too_small") {
    return outside(issue.origin, "less", "fewer", issue.minimum, issue.inclusive ?? true);
  }
  if (issue.code === "too_big") {
    return outside(issue.origin, "more", "more", issue.maximum, issue.inclusive ?? true);
  }
  return undefined;
}

function oneOf(values: readonly unknown[]): string {
  return `expected ${values.map((value) => JSON.stringify(value)).join(" or ")}`;
}

function outside(
  origin: string,
  less: string,
  fewer: string,
  bound: number | bigint,
  inclusive: boolean,
): string {
  if (origin === "string" || origin === "array") {
    if (fewer === "fewer" && bound === 1) return "must not be empty";
    return `has ${fewer} than ${bound} ${origin === "string" ? "characters" : "entries"}`;
  }
  return inclusive
    ? `is ${less} than ${bound}`
    : `must be ${less === "less" ? "more" : "less"} than ${bound}`;
}

const SHOWN_FIELD = 100;

function shownField(name: string): string {
  return JSON.stringify(name.length > SHOWN_FIELD ? `${name.slice(0, SHOWN_FIELD)}…` : name);
}

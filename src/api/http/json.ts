import { AppError } from "../../errors.ts";

/** No body has so many values; a body too short to do harm may. */
const MAX_VALUES = 10_000;
const HARMLESS_BYTES = 64 * 1024;
const MAX_DEPTH = 32;

/** JSON's signs. */
const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_ARRAY = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/**
 * JSON with few values, however long they are, and with each field of an object once: JSON.parse takes the last of two,
 * where a proxy that looks into bodies may have checked the first.
 */
export function parseJson(bytes: Uint8Array): unknown {
  const fields = checkShape(bytes);
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
  if (fieldsOf(value) !== fields) {
    throw new AppError("invalid", "An object in the body has a field twice.");
  }
  return value;
}

/**
 * Counts the fields, before the body becomes objects: 32 MiB of brackets would take a gigabyte then, and the event loop
 * for seconds, and deep ones the stack.
 */
function checkShape(json: Uint8Array): number {
  const maxValues = json.length <= HARMLESS_BYTES ? HARMLESS_BYTES : MAX_VALUES;
  let values = 0;
  let fields = 0;
  let depth = 0;
  let inString = false;
  for (let at = 0; at < json.length; at++) {
    const byte = json[at];
    if (byte === QUOTE) inString = !inString;
    else if (inString) {
      if (byte === BACKSLASH) at++;
    } else if (byte === COLON) fields++;
    else if (byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) depth--;
    else if (byte === COMMA || byte === OPEN_ARRAY || byte === OPEN_OBJECT) {
      values++;
      if (values > maxValues) throw new AppError("invalid", `The body has more than ${MAX_VALUES} values.`);
      if (byte !== COMMA) depth++;
      if (depth > MAX_DEPTH) {
        throw new AppError("invalid", `The body is nested more than ${MAX_DEPTH} levels deep.`);
      }
    }
  }
  return fields;
}

function fieldsOf(value: unknown): number {
  if (typeof value !== "object" || value === null) return 0;
  const inner = Object.values(value);
  const own = Array.isArray(value) ? 0 : inner.length;
  return inner.reduce((sum: number, one) => sum + fieldsOf(one), own);
}

/** What the first bytes of a client say: for whom its TLS is meant. */
export type Hello =
  | { readonly kind: "incomplete" }
  /** `encrypted`: it holds another name that only the server can read. */
  | {
      readonly kind: "hello";
      readonly name: string | null;
      readonly encrypted: boolean;
      readonly bytes: number;
    }
  | { readonly kind: "other" };

/** A ClientHello may be in several records; real ones have less than 3 KiB. */
const MAX_BYTES = 32 * 1024;
/** Else reading it again for each of very many takes the time of all runs. */
const MAX_RECORDS = 8;
const RECORD_HEAD = 5;
const HANDSHAKE = 22;
const CLIENT_HELLO = 1;
const MESSAGE_HEAD = 4;
const MAX_RECORD = 16_384;
const SERVER_NAME = 0;
const HOST_NAME = 0;
const ENCRYPTED_CLIENT_HELLO = 0xfe0d;

const INCOMPLETE: Hello = { kind: "incomplete" };
const OTHER: Hello = { kind: "other" };

/**
 * Reads a ClientHello (RFC 8446, 4.1.2) at the beginning of what a client has sent; `bytes` is how much of it are the
 * records that hold it. What is not one exactly is "other": a parser that forgives is one that can be made to see
 * another name than the server does.
 */
export function readHello(sent: Buffer): Hello {
  const message: Buffer[] = [];
  let length = 0;
  for (let at = 0; message.length < MAX_RECORDS;) {
    const record = sent.subarray(at);
    if (record.length > 0 && record[0] !== HANDSHAKE) return OTHER;
    if (record.length < RECORD_HEAD) return at > MAX_BYTES ? OTHER : INCOMPLETE;
    const size = record.readUInt16BE(3);
    if (record[1] !== 3 || size === 0 || size > MAX_RECORD || at + size > MAX_BYTES) return OTHER;
    message.push(record.subarray(RECORD_HEAD, RECORD_HEAD + size));
    length += size;
    const whole = Buffer.concat(message);
    if (whole.length > 0 && whole[0] !== CLIENT_HELLO) return OTHER;
    at += RECORD_HEAD + size;
    if (whole.length >= MESSAGE_HEAD) {
      const end = MESSAGE_HEAD + whole.readUIntBE(1, 3);
      if (end > MAX_BYTES) return OTHER;
      // The message after it must not begin in its record (RFC 8446, 5.1): there is none that a client sends now.
      if (length > end) return OTHER;
      if (whole.length === end) return readMessage(whole.subarray(MESSAGE_HEAD), at);
    }
    if (at > sent.length) return INCOMPLETE;
  }
  return OTHER;
}

function readMessage(message: Buffer, bytes: number): Hello {
  try {
    const body = createReader(message);
    body.skip(2 + 32);
    body.part(1);
    body.part(2);
    body.part(1);
    const extensions = body.left() === 0 ? createReader(Buffer.alloc(0)) : createReader(body.part(2));
    if (body.left() > 0) return OTHER;
    const seen = new Set<number>();
    let name: string | null = null;
    while (extensions.left() > 0) {
      const type = extensions.number(2);
      const content = extensions.part(2);
      if (seen.has(type)) return OTHER;
      seen.add(type);
      if (type === SERVER_NAME) name = serverName(content);
    }
    return { kind: "hello", name, encrypted: seen.has(ENCRYPTED_CLIENT_HELLO), bytes };
  } catch (error) {
    if (error instanceof RangeError) return OTHER;
    throw error;
  }
}

/** Exactly one name, of the one kind there is. */
function serverName(content: Buffer): string {
  const outer = createReader(content);
  const list = createReader(outer.part(2));
  const kind = list.number(1);
  const name = list.part(2).toString("latin1");
  if (kind !== HOST_NAME || list.left() > 0 || outer.left() > 0) throw new RangeError("not one name");
  return name.toLowerCase();
}

/** Throws RangeError past the end. */
function createReader(bytes: Buffer) {
  let at = 0;
  const take = (count: number): Buffer => {
    if (at + count > bytes.length) throw new RangeError("cut");
    at += count;
    return bytes.subarray(at - count, at);
  };
  const number = (size: number) => take(size).readUIntBE(0, size);
  return {
    left: () => bytes.length - at,
    skip: (count: number) => void take(count),
    number,
    /** What follows its own length of so many bytes. */
    part: (size: number) => take(number(size)),
  };
}

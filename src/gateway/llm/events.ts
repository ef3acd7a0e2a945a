const LINE_END = 0x0a;
const RETURN = 0x0d;
/** What a piece that is kept takes beside its bytes. */
const PIECE_BYTES = 256;

export interface ServerEvent {
  /** As it came, with the empty line that ends it. */
  readonly raw: Uint8Array;
  /** Its data lines, decoded only when asked for: most events count nothing. */
  data(): string;
  includes(text: string): boolean;
}

/** What a stream is cut into: events, and pieces of those for which there was no room. */
type Cut = { readonly event: ServerEvent } | { readonly unread: Uint8Array };

/**
 * Cuts a stream of server-sent events at their ends, however the network has cut it. `hold` is told how much is kept of an event
 * that has not ended; when it says no, that event passes in pieces, unread.
 */
export function createEventSplitter(hold: (bytes: number) => boolean) {
  /** What came of an event that has not ended; null while it passes unread. */
  let rest: { readonly pieces: Uint8Array[]; bytes: number } | null = { pieces: [], bytes: 0 };
  /** Of its last line: how long it is, and whether it begins with a carriage return. */
  let line = { length: 0, returns: false };

  /** `piece` ends it. */
  function ended(piece: Uint8Array): Cut {
    const cut = rest === null ? { unread: piece } : { event: eventOf(joined([...rest.pieces, piece])) };
    rest = { pieces: [], bytes: 0 };
    return cut;
  }

  function* kept(piece: Uint8Array): Generator<Cut> {
    if (piece.length === 0) return;
    const size = (rest?.bytes ?? 0) + piece.length + PIECE_BYTES;
    if (rest !== null && hold(size)) {
      // A copy of a part, which would keep the whole of what it came with.
      rest.pieces.push(piece.length < piece.buffer.byteLength ? piece.slice() : piece);
      rest.bytes = size;
      return;
    }
    for (const unread of [...(rest?.pieces ?? []), piece]) yield { unread };
    rest = null;
  }

  return {
    /** What ends in this piece. */
    *take(piece: Uint8Array): Generator<Cut> {
      let begin = 0;
      let from = 0;
      for (let end = piece.indexOf(LINE_END); end !== -1; end = piece.indexOf(LINE_END, from)) {
        const length = line.length + end - from;
        const returns = line.length > 0 ? line.returns : piece[from] === RETURN;
        line = { length: 0, returns: false };
        from = end + 1;
        if (length > 1 || (length === 1 && !returns)) continue;
        yield ended(piece.subarray(begin, from));
        begin = from;
      }
      if (from < piece.length) {
        const returns = line.length > 0 ? line.returns : piece[from] === RETURN;
        line = { length: line.length + piece.length - from, returns };
      }
      yield* kept(piece.subarray(begin));
    },
    /** What the stream's end has ended. */
    *end(): Generator<Cut> {
      if (rest !== null && rest.pieces.length > 0) yield ended(new Uint8Array());
    },
    /** How much is kept. */
    get bytes() {
      return rest?.bytes ?? 0;
    },
  };
}

function joined(pieces: readonly Uint8Array[]): Buffer {
  const [only, ...others] = pieces.filter(({ length }) => length > 0);
  if (only === undefined || others.length > 0) return Buffer.concat(pieces);
  return Buffer.from(only.buffer, only.byteOffset, only.length);
}

function eventOf(raw: Buffer): ServerEvent {
  return {
    raw,
    includes: (text) => raw.includes(text),
    data() {
      const lines = raw.toString("utf8").split(/\r?\n/);
      const data = lines.filter((line) => line.startsWith("data:"));
      return data.map((line) => line.slice("data:".length).trimStart()).join("\n");
    },
  };
}

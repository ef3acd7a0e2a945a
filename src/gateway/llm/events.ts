const LINE_END = 0x0a;
const RETURN = 0x0d;

export interface ServerEvent {
  /** As it came, with the empty line that ends it. */
  readonly raw: Uint8Array;
  /** Its data lines, decoded only when asked for: most events count nothing. */
  data(): string;
  includes(text: string): boolean;
}

/** One event may be an image, or a whole answer once more. */
const MAX_EVENT_BYTES = 32 * 1024 * 1024;

/** Cuts a stream of server-sent events at their ends, however the network has cut it. */
export function createEventSplitter() {
  /** What came of an event that has not ended. */
  let rest: Buffer = Buffer.alloc(0);
  return {
    /** The events that end in this piece. */
    *take(piece: Uint8Array): Generator<ServerEvent> {
      const all = rest.length === 0 ? Buffer.from(piece) : Buffer.concat([rest, piece]);
      let begin = 0;
      // Of what was there before, no line has ended.
      let line = Math.max(0, rest.lastIndexOf(LINE_END) + 1);
      for (let end = all.indexOf(LINE_END, rest.length); end !== -1; end = all.indexOf(LINE_END, line)) {
        const isEmpty = end === line || (end === line + 1 && all[line] === RETURN);
        line = end + 1;
        if (!isEmpty) continue;
        yield eventOf(all.subarray(begin, line));
        begin = line;
      }
      rest = all.subarray(begin);
      if (rest.length > MAX_EVENT_BYTES) throw new Error("the provider sent an event that is too long");
    },
    /** What the stream's end has ended. */
    *end(): Generator<ServerEvent> {
      if (rest.length > 0) yield eventOf(rest);
      rest = Buffer.alloc(0);
    },
  };
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

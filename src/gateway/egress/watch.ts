import { readHello } from "./hello.ts";

const RECORD_HEAD = 5;
const HANDSHAKE = 22;
const SERVER_HELLO = 2;
/** Of the server's first record: its head, the message's, the version, and what is random but for a retry's. */
const RANDOM_AT = RECORD_HEAD + 4 + 2;
/** RFC 8446, 4.1.3: with it in its place, a ServerHello asks for another ClientHello. */
const RETRY = Buffer.from("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c", "hex");
const NOTHING = Buffer.alloc(0);
const UNCHANGED: Step = { pass: NOTHING, held: null };

export type Step =
  /** `held`: whether the client has to wait until the server has spoken, or need not any more. */
  { readonly pass: Buffer; readonly held: "now" | "no more" | null } | { readonly refuse: string };

/**
 * What may be sent on of a client's bytes after its ClientHello. A server may ask for a second one (to agree on a key),
 * and that could name another host: so none passes before the server was heard, and if it asks, the second is judged as
 * the first was. From then on all is theirs.
 */
export function createWatch(judge: (hello: Buffer) => string | null) {
  let state: "unheard" | "asked" | "over" = "unheard";
  let waiting: Buffer = NOTHING;
  let heard: Buffer = NOTHING;
  let isHeld = false;
  /** Of a record that is passing and is no handshake. */
  let left = 0;

  function take(): Step {
    const passed: Buffer[] = [];
    const pass = (count: number): void => {
      passed.push(waiting.subarray(0, count));
      waiting = waiting.subarray(count);
    };
    while (waiting.length > 0) {
      if (state === "over") {
        pass(waiting.length);
      } else if (left > 0) {
        const count = Math.min(left, waiting.length);
        left -= count;
        pass(count);
      } else if (waiting[0] === HANDSHAKE) {
        if (state === "unheard") {
          isHeld = true;
          return { pass: Buffer.concat(passed), held: "now" };
        }
        const hello = readHello(waiting);
        if (hello.kind === "incomplete") break;
        const why = hello.kind === "other" ? "its second ClientHello is none" : judge(waiting);
        if (why !== null) return { refuse: why };
        state = "over";
      } else if (waiting.length < RECORD_HEAD) {
        break;
      } else {
        left = RECORD_HEAD + waiting.readUInt16BE(3);
      }
    }
    const held = isHeld ? "no more" : null;
    isHeld = false;
    return { pass: Buffer.concat(passed), held };
  }

  return {
    client(chunk: Buffer): Step {
      if (state === "over" && waiting.length === 0) return { pass: chunk, held: null };
      waiting = Buffer.concat([waiting, chunk]);
      return take();
    },
    /** To be told all that the server says before it is sent on. Returns what may pass now. */
    server(chunk: Buffer): Step {
      if (state !== "unheard") return UNCHANGED;
      heard = Buffer.concat([heard, chunk.subarray(0, RANDOM_AT + RETRY.length - heard.length)]);
      const isHello = heard[0] === HANDSHAKE && (heard[RECORD_HEAD] ?? SERVER_HELLO) === SERVER_HELLO;
      if (isHello && heard.length < RANDOM_AT + RETRY.length) return UNCHANGED;
      state = isHello && heard.subarray(RANDOM_AT).equals(RETRY) ? "asked" : "over";
      return take();
    },
  };
}

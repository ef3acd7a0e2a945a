import { createPacketReader, UnframedError, type Packet } from "./packets.ts";

/** One ref that a push asks to change. */
export interface Command {
  /** All zeros for a ref that is not there yet, or shall not be there any more. */
  readonly old: string;
  readonly new: string;
  /** Its bytes, each as one character, so that no decoding makes two names one. */
  readonly ref: string;
}

export type Push =
  /** A lone 0000: git asks whether it may push before it sends a large pack in chunks. */
  | { readonly kind: "probe"; readonly rest: Buffer }
  | {
      readonly kind: "commands";
      readonly commands: readonly Command[];
      readonly capabilities: readonly string[];
      /** The block as it came, its flush included, and what of the pack came with it. */
      readonly head: Buffer;
      readonly rest: Buffer;
    }
  /** Nothing of it may be sent on: somebody else may read it in another way. `why` completes "this push …". */
  | {
      readonly kind: "unreadable";
      readonly why: string;
      readonly commands: readonly Command[];
      readonly capabilities: readonly string[];
    };

export const MAX_BLOCK_BYTES = 64 * 1024;
const MAX_REF_BYTES = 1024;

const COMMAND = /^([0-9a-f]{40}|[0-9a-f]{64}) ([0-9a-f]{40}|[0-9a-f]{64}) (refs\/[^\n]+)$/;
const SHALLOW = /^shallow ([0-9a-f]{40}|[0-9a-f]{64})$/;

/** What changes neither how the rest is framed nor what is done with it, so that it may be asked of the server. */
const CAPABILITIES = [
  /^report-status(-v2)?$/,
  /^side-band-64k$/,
  /^quiet$/,
  /^atomic$/,
  /^ofs-delta$/,
  /^delete-refs$/,
  /^object-format=sha(1|256)$/,
  /^(agent|session-id)=[!-~]+$/,
];

export function isKnownCapability(word: string): boolean {
  return CAPABILITIES.some((known) => known.test(word));
}

const WHY_NOT: readonly (readonly [capability: RegExp, why: string])[] = [
  [/^push-options$/, "has options (git push -o), which can ask more of a server than a branch"],
  [/^push-cert/, "is signed, which hides its refs in a certificate; push with --no-signed"],
];

/**
 * Reads what stands before the pack of a git-receive-pack request: `shallow` lines, then a line a ref, the first with the
 * capabilities after a NUL. Only what every reader must read alike passes. Answers null until it knows.
 */
export function createPushReader(): { add(chunk: Uint8Array): Push | null; end(): Push } {
  const packets = createPacketReader();
  const lines: { commands: Command[]; capabilities: readonly string[]; head: Buffer[]; bytes: number } = {
    commands: [],
    capabilities: [],
    head: [],
    bytes: 0,
  };
  const state: { push: Push | null } = { push: null };

  const unreadable = (why: string): Push => {
    const { commands, capabilities } = lines;
    return { kind: "unreadable", why, commands, capabilities };
  };

  function read(): Push | null {
    for (;;) {
      const next = packets.next();
      if (next === null) return null;
      lines.head.push(next.bytes);
      lines.bytes += next.bytes.length;
      if (lines.bytes > MAX_BLOCK_BYTES) return unreadable(TOO_LONG);
      const end = next.kind === "flush" ? finish() : accept(next);
      if (end !== null) return end;
    }
  }

  function finish(): Push {
    const { commands, capabilities, head } = lines;
    const rest = packets.rest();
    if (commands.length > 0) {
      return { kind: "commands", commands, capabilities, head: Buffer.concat(head), rest };
    }
    return head.length === 1 ? { kind: "probe", rest } : unreadable("names no ref");
  }

  function accept(next: Packet): Push | null {
    if (next.kind !== "data") return unreadable("is not framed as a push is");
    const whole = next.payload.toString("latin1").replace(/\n$/, "");
    const [line = "", capabilities, ...more] = whole.split("\0");
    const isFirst = lines.commands.length === 0;
    if (isFirst && capabilities === undefined && SHALLOW.test(line)) return null;
    if (more.length > 0 || isFirst !== (capabilities !== undefined)) {
      return unreadable("has its capabilities in a wrong place");
    }
    if (capabilities !== undefined) {
      lines.capabilities = capabilities.split(" ").filter((word) => word !== "");
    }
    const unknown = lines.capabilities.find((word) => !isKnownCapability(word));
    const why = [line, ...lines.capabilities].flatMap((word) =>
      WHY_NOT.filter(([capability]) => capability.test(word)).map(([, reason]) => reason),
    )[0];
    if (why !== undefined) return unreadable(why);
    const [, old, to, ref] = COMMAND.exec(line) ?? [];
    if (old === undefined || to === undefined || ref === undefined || old.length !== to.length) {
      return unreadable("has a line that is no change of a ref");
    }
    if (ref.length > MAX_REF_BYTES) return unreadable("has a ref whose name is too long");
    if (lines.commands.some((command) => command.ref === ref)) return unreadable("names a ref twice");
    lines.commands.push({ old, new: to, ref });
    if (unknown === undefined) return null;
    return unreadable(`asks for something that is not known here (${JSON.stringify(unknown).slice(0, 100)})`);
  }

  return {
    add(chunk) {
      if (state.push !== null) throw new Error("a push was read to its end already");
      packets.add(chunk);
      try {
        state.push = read();
      } catch (error) {
        if (!(error instanceof UnframedError)) throw error;
        state.push = unreadable("is not framed as a push is");
      }
      return state.push;
    },
    end: () => state.push ?? unreadable("ends in the middle of its refs"),
  };
}

const TOO_LONG = "changes too many refs at once; push fewer";

export function isZero(oid: string): boolean {
  return /^0+$/.test(oid);
}

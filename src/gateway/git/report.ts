import { createPacketReader, UnframedError, type PacketReader } from "./packets.ts";
import type { Command } from "./push.ts";

export interface Outcome extends Command {
  /** null: the server has not said. */
  readonly accepted: boolean | null;
}

export interface ReportReader {
  /** Of the server's answer, as it passes. */
  add(chunk: Uint8Array): void;
  /** Whether the server has said all. */
  readonly complete: () => boolean;
  readonly outcomes: () => Outcome[];
}

const REPORT_BAND = 1;

/**
 * Reads from a server's answer to a push (report-status, in band 1 where there are bands) which refs it has changed. What
 * it does not understand it takes for silence.
 */
export function createReportReader(commands: readonly Command[], banded: boolean): ReportReader {
  const outer = createPacketReader();
  const inner = banded ? createPacketReader() : outer;
  const outcomes = new Map<string, Outcome>(
    commands.map((command) => [command.ref, { ...command, accepted: null }]),
  );
  const state = { complete: false, broken: false, last: null as string | null };

  function take(line: string): void {
    const [, verdict, ref = ""] = /^(ok|ng) ([^ ]+)/.exec(line) ?? [];
    const known = outcomes.get(ref);
    if (known !== undefined) {
      outcomes.set(ref, { ...known, accepted: verdict === "ok" });
      state.last = ref;
      return;
    }
    // What a hook of the server's made of it: it may have been another ref that has changed.
    const [, option, value = ""] = /^option (refname|old-oid|new-oid) ([^ ]+)$/.exec(line) ?? [];
    const before = state.last === null ? undefined : outcomes.get(state.last);
    if (option === undefined || state.last === null || before === undefined) return;
    const field = ({ refname: "ref", "old-oid": "old", "new-oid": "new" } as const)[
      option as "refname" | "old-oid" | "new-oid"
    ];
    outcomes.set(state.last, { ...before, [field]: value });
  }

  function readLines(packets: PacketReader): void {
    for (let next = packets.next(); next !== null && !state.complete; next = packets.next()) {
      if (next.kind === "data") take(next.payload.toString("latin1").replace(/\n$/, ""));
      else state.complete = true;
    }
  }

  function readBands(): void {
    for (let next = outer.next(); next !== null; next = outer.next()) {
      if (next.kind !== "data") return;
      if (next.payload[0] === REPORT_BAND && !state.complete) {
        inner.add(next.payload.subarray(1));
        readLines(inner);
      }
    }
  }

  return {
    add(chunk) {
      if (state.complete || state.broken) return;
      outer.add(chunk);
      try {
        if (banded) readBands();
        else readLines(outer);
      } catch (error) {
        if (!(error instanceof UnframedError)) throw error;
        state.broken = true;
      }
    },
    complete: () => state.complete,
    outcomes: () => [...outcomes.values()],
  };
}

import type { EventData } from "../audit/event.ts";
import type { Judge } from "../audit/settle.ts";
import type { ExecEnd } from "../sandbox/exec.ts";

const COMMAND_BYTES = 4096;
const STDOUT_BYTES = 1024;

/** What is said of a command before it is sent. */
export function announcedCommand(command: string): EventData {
  return { command: head(new TextEncoder().encode(command), COMMAND_BYTES) };
}

/** And when it is over. `error` is what its caller was told instead of a result. */
export function completedCommand(announced: EventData, end: ExecEnd, error: string | null): EventData {
  return {
    ...announced,
    ended: end.ended,
    exit_code: end.exitCode,
    duration_ms: end.durationMs,
    stdout: head(end.stdout, STDOUT_BYTES),
    timed_out: end.ended === "timed_out",
    error,
  };
}

/** A crash of api ends its sandboxes: the command is dead, and nobody knows how far it had come. */
export const execJudges: Readonly<Record<"exec.completed", Judge>> = {
  "exec.completed": async (announced) => ({
    fate: "unknown",
    data: {
      ...announced,
      ended: "lost",
      exit_code: null,
      duration_ms: null,
      stdout: "",
      timed_out: false,
      error: null,
    },
  }),
};

/** The beginning, cut at a character; U+FFFD for what is not UTF-8. */
function head(bytes: Uint8Array, most: number): string {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  // As a stream, it keeps back a character that is cut off.
  return decoder.decode(bytes.subarray(0, most), { stream: bytes.length > most });
}

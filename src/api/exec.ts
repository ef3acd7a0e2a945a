import { Elysia } from "elysia";
import { z } from "zod";
import type { EventData } from "../audit/event.ts";
import type { Intent, Ledger } from "../audit/ledger.ts";
import { AppError } from "../errors.ts";
import type { Exec, ExecEnd, ExecResult } from "../sandbox/exec.ts";
import { namespaceCalls, type Access, type NamespaceCall } from "./auth.ts";
import { readJson, text } from "./http/body.ts";
import { announcedCommand, completedCommand } from "./exec-event.ts";
import { createLargeBodies } from "./http/large-bodies.ts";
import { createOutgoing, type Outgoing } from "./http/outgoing.ts";

const execBody = z.object({ command: text, stdin: text.nullish() });

/** The longest command and stdin, with every byte of both spelled as a six-character JSON escape. */
const MAX_BODY_BYTES = 8 * 1024 * 1024;
/** Of one namespace's bodies together. */
const LARGE_BODIES_BYTES = 16 * MAX_BODY_BYTES;

/** Longer answers are written piece by piece, as the client takes them: NUL bytes grow sixfold in JSON. */
const LARGE_BYTES = 64 * 1024;
const PIECE_BYTES = 64 * 1024;
/** Of all long answers that are on their way: as many of the longest as one namespace can have at once, and a few more. */
const OUTGOING_BYTES = 384 * 1024 * 1024;

export interface ExecRoutesParts {
  readonly access: Access;
  readonly exec: Pick<Exec, "check" | "turn" | "exec">;
  readonly ledger: Pick<Ledger, "announce">;
}

/** `POST /v1/exec` answers in JSON, `POST /exec` in plain text. */
export function execRoutes({ access, exec, ledger }: ExecRoutesParts) {
  const outgoing = createOutgoing(OUTGOING_BYTES);
  const largeBodies = createLargeBodies(LARGE_BODIES_BYTES);

  async function run(request: Request, namespace: NamespaceCall): Promise<ExecResult> {
    const read = async () => readJson(request, execBody, MAX_BODY_BYTES);
    const body = await largeBodies.hold(namespace.owner, request, MAX_BODY_BYTES, read);
    const { command } = body;
    const stdin = typeof body.stdin === "string" ? new TextEncoder().encode(body.stdin) : undefined;
    return await execInTurn({ exec, ledger }, request, namespace, { command, stdin });
  }

  return new Elysia()
    .use(namespaceCalls(access))
    .post(
      "/v1/exec",
      async ({ request, namespace }) =>
        jsonAnswer(await run(request, namespace), outgoing.of(namespace.owner)),
      {
        parse: "none",
      },
    )
    .post(
      "/exec",
      async ({ request, namespace }) =>
        textAnswer(await run(request, namespace), outgoing.of(namespace.owner)),
      {
        parse: "none",
      },
    );
}

/** A call that is refused or finds no turn has made no namespace, and is no event. */
export async function execInTurn(
  { exec, ledger }: Pick<ExecRoutesParts, "exec" | "ledger">,
  request: Request,
  namespace: NamespaceCall,
  what: { readonly command: string; readonly stdin: Uint8Array | undefined },
): Promise<ExecResult> {
  exec.check(what);
  return await exec.turn(namespace.owner, request.signal, () =>
    namespace.write(async ({ id, signal }) => {
      const data = announcedCommand(what.command);
      const announcing = ledger.announce({ ...namespace.event("exec.completed", data), namespaceId: id });
      return await makeRecorded(announcing, data, signal, async (onEnd) =>
        exec.exec({ namespace: id, ...what, signal, announced: announcing, onEnd }),
      );
    }),
  );
}

/**
 * A command that was sent has its event however it ends; its caller's error is in it. One that was not sent has none.
 * It is sent once its announcement has outlived this process, and while that goes to the disk: a power cut takes what an
 * unanswered command has written along with it. Nobody is answered before it is there.
 */
async function makeRecorded(
  announcing: Promise<Intent>,
  data: EventData,
  signal: AbortSignal,
  run: (onEnd: (end: ExecEnd) => void) => Promise<ExecResult>,
): Promise<ExecResult> {
  const ends: ExecEnd[] = [];
  const [outcome, announced] = await Promise.allSettled([run((end) => void ends.push(end)), announcing]);
  const failed = outcome.status === "rejected";
  // What the command made of an abort matters less than why it was aborted.
  const error: unknown = failed && signal.aborted ? signal.reason : failed ? outcome.reason : null;
  if (announced.status === "fulfilled") {
    const { value: announcement } = announced;
    const [end] = ends;
    const recording = Promise.all([
      announcement.onDisk,
      end === undefined
        ? announcement.abandon()
        : announcement.complete(completedCommand(data, end, sentence(error))),
    ]);
    // It stays announced, for the next start; a call that failed has a reason of its own.
    if (failed) await recording.catch(() => {});
    else await recording;
  }
  if (failed) throw error;
  return outcome.value;
}

function sentence(error: unknown): string | null {
  if (error === null) return null;
  return error instanceof AppError ? error.message : "The appliance failed.";
}

export function jsonAnswer(result: ExecResult, outgoing: Outgoing): Response {
  return answer(result, outgoing, "application/json", function* ({ stdout, stderr }) {
    yield `{"exit_code":${result.exitCode},"stdout":"`;
    for (const piece of stdout) yield JSON.stringify(piece).slice(1, -1);
    yield `","stderr":"`;
    for (const piece of stderr) yield JSON.stringify(piece).slice(1, -1);
    const rest = {
      duration_ms: result.durationMs,
      stdout_truncated: result.stdoutTruncated,
      stderr_truncated: result.stderrTruncated,
      oom: result.oom,
    };
    yield `",${JSON.stringify(rest).slice(1)}`;
  });
}

export function textAnswer(result: ExecResult, outgoing: Outgoing): Response {
  return answer(result, outgoing, "text/plain; charset=utf-8", function* ({ stdout, stderr }) {
    if (result.exitCode !== 0) {
      yield `[exit ${result.exitCode}]\n`;
      yield* stderr;
    }
    yield* stdout;
  });
}

type Texts = Record<"stdout" | "stderr", Generator<string>>;

function answer(
  result: ExecResult,
  outgoing: Outgoing,
  type: string,
  write: (texts: Texts) => Generator<string>,
): Response {
  const pieces = write({
    stdout: decoded(result.stdout, result.stdoutTruncated),
    stderr: decoded(result.stderr, result.stderrTruncated),
  });
  const size = result.stdout.length + result.stderr.length;
  const body = size <= LARGE_BYTES ? [...pieces].join("") : outgoing.stream(pieces, size);
  return new Response(body, { headers: { "content-type": type } });
}

/** Bytes as text, with U+FFFD for what is not UTF-8. What was truncated may end inside a character: that one is left out. */
function* decoded(bytes: Uint8Array, truncated: boolean): Generator<string> {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    const end = at + PIECE_BYTES;
    // The decoder keeps the start of a character that a piece's end cuts; without a last piece it is dropped.
    yield decoder.decode(bytes.subarray(at, end), { stream: truncated || end < bytes.length });
  }
}

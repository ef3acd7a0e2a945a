import { closeSync, writeSync } from "node:fs";
import { watchLink } from "../kernel/link.ts";
import { socketPair } from "../kernel/unixsocket.ts";

export interface ChildOptions {
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Called before each start. */
  readonly prepare?: () => void;
  /** The first bytes on the child's link: a key, which must show neither in its environment nor in its arguments. */
  readonly secret: (() => Uint8Array) | null;
  /** A line of the child's sd_notify. */
  readonly onNotice: (name: string, value: string) => void;
  /** What it writes to its stderr, in whole lines. */
  readonly onOutput: (text: string) => void;
}

export interface Child {
  readonly pid: number;
  kill(signal: NodeJS.Signals): void;
  /** Once it is gone and all that it wrote was read. */
  readonly ended: Promise<{ readonly code: number | null; readonly signal: string | number | null }>;
}

/** The most that a child may send without a line end. */
const MAX_LINE = 64 * 1024;

/**
 * A role's process. Its stderr is a pipe, since with a descriptor of a log file or a terminal it could change that
 * file's mode; descriptor 3 (LINK_FD) is a socket to here, whose end tells either side that the other is gone.
 */
export async function startChild(options: ChildOptions): Promise<Child> {
  const { command, env, prepare, secret, onNotice, onOutput } = options;
  prepare?.();
  const first = secret?.();
  const [ours, theirs] = socketPair();
  if (first !== undefined) writeSync(ours, first);
  const child = (() => {
    try {
      return Bun.spawn([...command], {
        env,
        cwd: "/",
        stdio: ["ignore", "ignore", "pipe", theirs],
        // A ^C in the terminal is for the supervisor, which then stops its children in order.
        detached: true,
      });
    } catch (error) {
      closeSync(ours);
      throw error;
    } finally {
      closeSync(theirs);
    }
  })();
  const split = lines((line) => {
    const at = line.indexOf("=");
    if (at > 0) onNotice(line.slice(0, at), line.slice(at + 1));
  });
  await watchLink(ours, { data: (data) => split(data.toString()), closed() {} });
  const output = forward(child.stderr, onOutput);
  const ended = child.exited.then(async () => {
    await output;
    return { code: child.exitCode, signal: child.signalCode };
  });
  return { pid: child.pid, kill: (signal) => child.kill(signal), ended };
}

/** Whole lines only, so that those of several children don't mix. */
async function forward(stream: ReadableStream<Uint8Array>, onOutput: (text: string) => void): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const text = rest + decoder.decode(chunk, { stream: true });
    const end = text.lastIndexOf("\n") + 1;
    if (end > 0) onOutput(text.slice(0, end));
    rest = text.slice(end);
    if (rest.length <= MAX_LINE) continue;
    onOutput(`${rest}\n`);
    rest = "";
  }
  if (rest !== "") onOutput(`${rest}\n`);
}

function lines(onLine: (line: string) => void): (text: string) => void {
  let rest = "";
  return (text) => {
    const parts = (rest + text).split("\n");
    rest = parts.pop() ?? "";
    if (rest.length > MAX_LINE) {
      parts.push(rest);
      rest = "";
    }
    for (const part of parts) if (part !== "") onLine(part);
  };
}

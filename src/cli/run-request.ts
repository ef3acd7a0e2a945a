import { z } from "zod";
import { AppError, codeOf } from "../errors.ts";
import { shellLine } from "./shell-line.ts";

/** The options of `run start` that are about the run itself. */
export interface RequestArgs {
  readonly namespace: string;
  readonly request?: string | undefined;
  readonly agent?: string | undefined;
  readonly prompt?: string | undefined;
  readonly from?: string | undefined;
  readonly label?: string | undefined;
  readonly llm?: string | undefined;
  readonly models?: string | undefined;
  readonly "max-usd"?: string | undefined;
  readonly timeout?: string | undefined;
  readonly "memory-mb"?: string | undefined;
  readonly "on-success"?: string | undefined;
}

type Fields = Readonly<Record<string, unknown>>;

/**
 * What the file of --request says, and over it, field by field, what the options and the words say. Only what was said:
 * the rest is for the api to fill in.
 */
export async function requestOf(args: RequestArgs, words: readonly string[]): Promise<Fields> {
  const file = await requestIn(args.request);
  const request = {
    ...file,
    ...given({
      command: words.length === 0 ? undefined : shellLine(words),
      agent: agentOf(args, file["agent"]),
      worktree: sourceOf(args.from),
      label: args.label,
      llm: llmOf(args, file["llm"]),
      limits: limitsOf(args, file["limits"]),
      on_success: args["on-success"],
    }),
  };
  if ("command" in request || "agent" in request) return request;
  throw new AppError(
    "bad_input",
    `Put the command after --, as: cofferdam run start ${args.namespace} -- 'make test'; or give --agent KIND and --prompt TEXT.`,
  );
}

function agentOf({ agent: kind, prompt }: RequestArgs, file: unknown): Fields | undefined {
  if (kind === undefined && prompt === undefined) return undefined;
  const agent = { ...fieldsOf(file), ...given({ kind, prompt }) };
  if (!("kind" in agent))
    throw new AppError("bad_input", "--prompt is for an agent: say which by --agent KIND.");
  if (!("prompt" in agent)) throw new AppError("bad_input", "--agent wants --prompt TEXT: what it shall do.");
  return agent;
}

function llmOf(args: RequestArgs, file: unknown): Fields | undefined {
  const said = given({
    credential: args.llm,
    models: args.models?.split(",").map((name) => name.trim()),
    max_usd: number("max-usd", args["max-usd"]),
  });
  if (Object.keys(said).length === 0) return undefined;
  if (Array.isArray(file)) {
    throw new AppError(
      "bad_input",
      "--llm, --models and --max-usd are for one grant; the request has a list.",
    );
  }
  const llm = { ...fieldsOf(file), ...said };
  if ("credential" in llm) return llm;
  throw new AppError("bad_input", "--models and --max-usd want --llm NAME: the credential for the models.");
}

function limitsOf(args: RequestArgs, file: unknown): Fields | undefined {
  const said = given({
    timeout_s: number("timeout", args.timeout),
    memory_mb: number("memory-mb", args["memory-mb"]),
  });
  return Object.keys(said).length === 0 ? undefined : { ...fieldsOf(file), ...said };
}

function sourceOf(from: string | undefined): Fields | undefined {
  if (from === undefined) return undefined;
  return from.startsWith("snap-") ? { from: "snapshot", snapshot_id: from } : { from };
}

/** Of anything else the api says what is wrong with it. */
function fieldsOf(value: unknown): Fields {
  return z.record(z.string(), z.unknown()).safeParse(value).data ?? {};
}

function given(fields: Fields): Fields {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

function number(option: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const parsed = Number(value);
  if (Number.isFinite(parsed) && value.trim() !== "") return parsed;
  throw new AppError("bad_input", `--${option} wants a number, not ${JSON.stringify(value)}.`);
}

async function requestIn(file: string | undefined): Promise<Fields> {
  if (file === undefined) return {};
  let text: string;
  try {
    text = await (file === "-" ? Bun.stdin : Bun.file(file)).text();
  } catch (error) {
    throw new AppError("bad_input", `${file} can't be read (${codeOf(error) ?? String(error)}).`, {
      cause: error,
    });
  }
  try {
    return z.record(z.string(), z.unknown()).parse(JSON.parse(text));
  } catch (error) {
    const what = file === "-" ? "stdin" : file;
    throw new AppError("bad_input", `${what} has to be a JSON object: see docs/runs.md.`, { cause: error });
  }
}

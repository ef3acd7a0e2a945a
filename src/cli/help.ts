import type { ArgsDef, CommandDef, Resolvable } from "citty";
import { AppError } from "../errors.ts";
import { strictBeforeDashes } from "./strict.ts";

/** Any command, whatever its arguments are. */
type Command = CommandDef;

export interface Found {
  readonly command: Command;
  /** Its name in full, as "cofferdam key create". */
  readonly name: string;
  /** What stands behind the name. */
  readonly rest: readonly string[];
}

/** The command that the words name, as far as they name one. */
export async function findCommand(main: Command, words: readonly string[]): Promise<Found> {
  let found: Found = { command: main, name: "cofferdam", rest: words };
  for (;;) {
    const [word, ...rest] = found.rest;
    const below = word === undefined ? undefined : await subCommand(found.command, word);
    if (below === undefined) return found;
    found = { command: below, name: `${found.name} ${word}`, rest };
  }
}

/** Why the words name no command that could be run; null when they do. */
export async function whyNone({ command, name, rest }: Found): Promise<AppError | null> {
  const below = await subCommandsOf(command);
  if (below.length === 0) return null;
  const names = below.filter(({ hidden }) => !hidden).map((one) => one.name);
  const [word] = rest;
  const parent = name.split(" ").slice(1);
  if (word === undefined)
    return new AppError("bad_input", `"${name}" wants one of: ${names.join(", ")}. See: ${name} --help`);
  if (word.startsWith("-"))
    return new AppError("bad_input", `Put ${word} behind the command. See: ${name} --help`);
  return new AppError(
    "bad_input",
    `There is no command "${[...parent, word].join(" ")}"; there are: ${names.join(", ")}.`,
  );
}

/** "cofferdam key create [options] NAME" */
export async function usage({ command, name }: Found): Promise<string> {
  if (command.subCommands !== undefined) return `${name} COMMAND`;
  const words = entries(await resolved(command.args))
    .filter(([, argument]) => argument.type === "positional")
    .map(([word, { required, default: instead }]) =>
      required === false || instead !== undefined ? `[${word.toUpperCase()}]` : word.toUpperCase(),
    );
  const behind = command.plugins?.includes(strictBeforeDashes) === true ? ["-- COMMAND..."] : [];
  return [name, "[options]", ...words, ...behind].join(" ");
}

/** Plain text for 80 columns: it is read in a terminal, through a pager and in a mail alike. */
export async function helpText(found: Found): Promise<string> {
  const { command, name } = found;
  const below = await subCommandsOf(command);
  const listed = (hidden: boolean): Row[] =>
    below.filter((one) => one.hidden === hidden).map((one) => [one.name, firstSentence(one.description)]);
  const all = entries(await resolved(command.args));
  const rows = (positional: boolean): Row[] =>
    all
      .filter(([, { type }]) => (type === "positional") === positional)
      .map(([word, argument]) => [
        positional ? word.toUpperCase() : option(word, argument),
        explanation(argument),
      ]);
  const blocks = [
    wrap((await resolved(command.meta))?.description ?? "", "", ""),
    `Usage: ${await usage(found)}`,
    section("", rows(true)),
    section("Options:", rows(false)),
    section("Commands:", listed(false)),
    section("Started by these, by units and by install.sh:", listed(true)),
    below.length === 0 ? "" : `More about one: ${name} COMMAND --help`,
  ];
  return `${blocks.filter((block) => block !== "").join("\n\n")}\n`;
}

type Row = readonly [label: string, text: string];

const WIDTH = 80;
/** A longer label has a line of its own. */
const LABEL_MAX = 24;

function section(title: string, rows: readonly Row[]): string {
  if (rows.length === 0) return "";
  const column = Math.min(LABEL_MAX, Math.max(...rows.map(([label]) => label.length)));
  const lines = rows.map(([label, text]) => {
    const indent = " ".repeat(column + 4);
    const first = label.length > column ? `  ${label}\n${indent}` : `  ${label.padEnd(column)}  `;
    return wrap(text, first, indent).trimEnd();
  });
  return [...(title === "" ? [] : [title]), ...lines].join("\n");
}

/** The text in lines, the first behind `first`, the others behind `indent`. */
function wrap(text: string, first: string, indent: string): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && indent.length + line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = "";
    }
    line += line === "" ? word : ` ${word}`;
  }
  return first + [...lines, line].join(`\n${indent}`);
}

function option(word: string, argument: Argument): string {
  const short = [argument.alias ?? []].flat().map((letter) => `-${letter}, `);
  const value = argument.type === "string" ? ` ${argument.valueHint ?? "VALUE"}` : "";
  return `${short.join("")}--${word}${value}`;
}

function explanation({ description = "", type, default: instead }: Argument): string {
  return instead === undefined || type === "boolean" ? description : `${description}; default: ${instead}`;
}

function firstSentence(text: string): string {
  return text.split(". ")[0] ?? text;
}

/** What is read of citty's definitions, which differ by type. */
interface Argument {
  readonly type?: string;
  readonly description?: string;
  readonly valueHint?: string;
  readonly required?: boolean;
  readonly default?: string | number | boolean;
  readonly alias?: string | string[];
}

function entries(args: ArgsDef | undefined): [string, Argument][] {
  return Object.entries(args ?? {});
}

async function subCommandsOf(command: Command) {
  const commands = Object.entries((await resolved(command.subCommands)) ?? {});
  return Promise.all(
    commands.map(async ([name, below]) => {
      const meta = await resolved((await resolved(below))?.meta);
      return { name, description: meta?.description ?? "", hidden: meta?.hidden === true };
    }),
  );
}

async function subCommand(command: Command, word: string): Promise<Command | undefined> {
  const commands = (await resolved(command.subCommands)) ?? {};
  return Object.hasOwn(commands, word) ? ((await resolved(commands[word])) as Command) : undefined;
}

async function resolved<T>(value: Resolvable<T> | undefined): Promise<T | undefined> {
  return typeof value === "function" ? (value as () => T | Promise<T>)() : value;
}

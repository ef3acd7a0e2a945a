import { defineCittyPlugin, type ArgsDef, type CommandContext } from "citty";
import { AppError } from "../errors.ts";

/** citty takes any option and any further word; a mistyped one must not be ignored. */
export const strict = defineCittyPlugin({
  name: "strict",
  async setup({ args, cmd }) {
    const definitions = await definitionsOf(cmd);
    checkOptions(args, definitions);
    checkWords(args._, definitions);
  },
});

/** The same for a command that has another one after `--`: that one's words are its own. */
export const strictBeforeDashes = defineCittyPlugin({
  name: "strict",
  async setup({ args, rawArgs, cmd }) {
    const definitions = await definitionsOf(cmd);
    checkOptions(args, definitions);
    const behind = rawArgs.includes("--") ? rawArgs.length - rawArgs.indexOf("--") - 1 : 0;
    const own = args._.slice(0, args._.length - behind);
    checkWords(own, definitions, "; put the command after a --");
    // citty would go on filling them from behind the dashes.
    const missing = positionalOf(definitions)[own.length];
    if (missing !== undefined) throw new AppError("bad_input", `Put ${missing.toUpperCase()} before the --.`);
  },
});

async function definitionsOf(cmd: CommandContext["cmd"]): Promise<ArgsDef> {
  return (typeof cmd.args === "function" ? await cmd.args() : await cmd.args) ?? {};
}

function positionalOf(definitions: ArgsDef): string[] {
  return Object.keys(definitions).filter((name) => definitions[name]?.type === "positional");
}

function checkOptions(args: Readonly<Record<string, unknown>>, definitions: ArgsDef): void {
  const given = Object.keys(args);
  const names = Object.keys(definitions);
  const known = new Set(
    names.flatMap((name) => {
      const definition = definitions[name];
      const alias = definition !== undefined && "alias" in definition ? (definition.alias ?? []) : [];
      return [name, name.replaceAll(/-(.)/g, (_, letter: string) => letter.toUpperCase())].concat(alias);
    }),
  );
  const unknown = given.find((name) => name !== "_" && !known.has(name));
  if (unknown !== undefined) {
    const options = names
      .filter((name) => definitions[name]?.type !== "positional")
      .map((name) => `--${name}`);
    throw new AppError(
      "bad_input",
      `There is no option --${unknown}; the options are ${options.join(", ")}.`,
    );
  }
  // An empty string is also what citty makes of an option at the end of the line.
  for (const [name, definition] of Object.entries(definitions)) {
    if (definition.type !== "string" || args[name] !== "") continue;
    throw new AppError("bad_input", `--${name} wants a value: --${name} ${definition.valueHint ?? "VALUE"}.`);
  }
}

function checkWords(words: readonly string[], definitions: ArgsDef, hint = ""): void {
  const extra = words[positionalOf(definitions).length];
  if (extra !== undefined) throw new AppError("bad_input", `"${extra}" is one word too many here${hint}.`);
}

import { defineCittyPlugin, type ArgsDef } from "citty";
import { AppError } from "../errors.ts";

/** citty takes any option and any further word; a mistyped one must not be ignored. */
export const strict = defineCittyPlugin({
  name: "strict",
  async setup({ args, cmd }) {
    const definitions: ArgsDef = (typeof cmd.args === "function" ? await cmd.args() : await cmd.args) ?? {};
    const names = Object.keys(definitions);
    const known = new Set(
      names.flatMap((name) => [name, name.replaceAll(/-(.)/g, (_, letter: string) => letter.toUpperCase())]),
    );
    const unknown = Object.keys(args).find((name) => name !== "_" && !known.has(name));
    if (unknown !== undefined) {
      const options = names.map((name) => `--${name}`).join(", ");
      throw new AppError("bad_input", `There is no option --${unknown}; the options are ${options}.`);
    }
    const positional = Object.values(definitions).filter(({ type }) => type === "positional").length;
    const extra = args._[positional];
    if (extra !== undefined) throw new AppError("bad_input", `"${extra}" is one word too many here.`);
  },
});

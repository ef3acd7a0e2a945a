/**
 * bun build/binary.ts --outfile FILE [--commit ID]: compiles the executable.
 * The same sources, lock file and commit give the same bytes, wherever the clone lies.
 */
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import type { BunPlugin } from "bun";

const { values } = parseArgs({
  options: { outfile: { type: "string" }, commit: { type: "string" } },
});
if (values.outfile === undefined) throw new Error("usage: bun build/binary.ts --outfile FILE [--commit ID]");

const outfile = resolve(values.outfile);
// Every path below is relative to the repo, since absolute ones end up in the executable.
process.chdir(resolve(import.meta.dir, ".."));

/** libsql looks for its native part in node_modules at run time; the executable has none, and brings it inside. */
const libsqlAddon: BunPlugin = {
  name: "libsql-addon",
  setup(build) {
    build.onLoad({ filter: /\/libsql\/index\.js$/ }, async ({ path }) => {
      const source = await Bun.file(path).text();
      const search = /function requireNative\(\) \{\n.*?\n\}\n/s;
      if (!search.test(source) || source.split("requireNative()").length !== 3) {
        throw new Error(
          `${path}: requireNative() is not as it was; adapt build/binary.ts to this version of libsql`,
        );
      }
      return {
        loader: "js",
        contents: source.replace(
          search,
          `const requireNative = () => require("../../build/addon.ts").loadAddon();\n`,
        ),
      };
    });
  },
};

await Bun.build({
  entrypoints: ["./src/main.ts"],
  root: ".",
  target: "bun",
  format: "esm",
  bytecode: true,
  sourcemap: "linked",
  // No further: shorter names break Elysia's reading of its handlers' source.
  minify: { syntax: true },
  define: values.commit === undefined ? {} : { COFFERDAM_COMMIT: JSON.stringify(values.commit) },
  // Otherwise a .env or a bunfig.toml with a preload in the working directory would run inside the appliance.
  compile: { outfile: outfile, autoloadDotenv: false, autoloadBunfig: false },
  plugins: [libsqlAddon],
});

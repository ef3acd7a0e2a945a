/**
 * bun build/binary.ts --outfile FILE [--commit ID] [--packages FILE]: compiles the executable; the second FILE gets the
 * keys in bun.lock of the packages that are inside.
 * The same sources, lock file and commit give the same bytes, wherever the clone lies.
 */
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import type { BunPlugin } from "bun";

const { values } = parseArgs({
  options: { outfile: { type: "string" }, commit: { type: "string" }, packages: { type: "string" } },
});
if (values.outfile === undefined) throw new Error("usage: bun build/binary.ts --outfile FILE [--commit ID]");

const outfile = resolve(values.outfile);
// Every path below is relative to the repo, since absolute ones end up in the executable.
process.chdir(resolve(import.meta.dir, ".."));

/** libsql looks for its native part in node_modules at run time; the executable has none, and brings it inside. */
const libsqlAddon: BunPlugin = {
  name: "libsql-addon",
  setup(build) {
    build.onLoad({ filter: /\/libsql\/(index|promise)\.js$/ }, async ({ path }) => {
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

const { metafile } = await Bun.build({
  metafile: true,
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

if (values.packages !== undefined) {
  const keys = Object.keys(metafile?.inputs ?? {}).flatMap((input) => {
    const [folder] = /^(?:node_modules\/(?:@[^/]+\/)?[^/]+\/)+/.exec(input) ?? [];
    return folder === undefined ? [] : [folder.replaceAll("node_modules/", "").slice(0, -1)];
  });
  const sorted = [...new Set(keys)].toSorted((a, b) => (a < b ? -1 : 1));
  await Bun.write(values.packages, `${sorted.join("\n")}\n`);
}

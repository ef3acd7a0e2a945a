import { defineCommand } from "citty";
import { readManifest } from "../manifest.ts";
import { buildInfo } from "../version.ts";
import { libraryArgument, libraryOf } from "./arguments.ts";
import { strict } from "./strict.ts";

export const version = defineCommand({
  meta: { name: "version", description: "What is installed: the executable, runsc, the root file system" },
  plugins: [strict],
  args: { json: { type: "boolean", description: "As JSON" }, ...libraryArgument },
  run({ args }) {
    const manifest = readManifest(libraryOf(args));
    const { runsc = null, rootfs = null, run_rootfs = null } = manifest ?? {};
    const all = { ...buildInfo, runsc, rootfs, run_rootfs };
    if (args.json) {
      process.stdout.write(`${JSON.stringify(all)}\n`);
      return;
    }
    process.stdout.write(
      `cofferdam ${all.version} (${all.commit ?? "commit unknown"})\n` +
        `bun       ${all.bun}\n` +
        `runsc     ${all.runsc ?? "none beside this executable"}\n` +
        `rootfs    ${all.rootfs ?? "none beside this executable"}\n` +
        `run image ${all.run_rootfs ?? "none beside this executable"}\n`,
    );
  },
});

import { existsSync } from "node:fs";
import { defineCommand } from "citty";
import { createInstance, ensureRunDirectories, publishConfig } from "../setup.ts";
import { dataArgument } from "./arguments.ts";
import { strict } from "./strict.ts";

export const prepare = defineCommand({
  meta: {
    name: "prepare",
    description:
      "Make what is missing of an instance, as root; install.sh and the units do it before a start and a reload",
  },
  plugins: [strict],
  args: dataArgument,
  run({ args }) {
    const instance = createInstance(args.data);
    ensureRunDirectories(instance);
    publishConfig(instance, existsSync(instance.configFile) ? instance.configFile : null);
  },
});

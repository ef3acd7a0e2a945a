import { existsSync } from "node:fs";
import { defineCommand } from "citty";
import { AppError } from "../errors.ts";
import { createInstance, ensureRunDirectories, publishConfig } from "../setup.ts";
import { dataArgument } from "./arguments.ts";
import { strict } from "./strict.ts";

export const prepare = defineCommand({
  meta: {
    name: "prepare",
    description: "Make what is missing of an instance, before a start and a reload",
    hidden: true,
  },
  plugins: [strict],
  args: dataArgument,
  run({ args }) {
    if (process.getuid?.() !== 0) throw new AppError("forbidden", "prepare has to be run by root; use sudo.");
    const instance = createInstance(args.data);
    ensureRunDirectories(instance);
    publishConfig(instance, existsSync(instance.configFile) ? instance.configFile : null);
  },
});

import { resolve } from "node:path";
import { defineCommand } from "citty";
import { z } from "zod";
import { ensureFirstKeys, keepKeys } from "../supervisor/firstkeys.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { strict } from "./strict.ts";

export const setup = defineCommand({
  meta: {
    name: "setup",
    description: "Have the running api make the first workspace and its keys, once",
    hidden: true,
  },
  plugins: [strict],
  args: {
    ...dataArgument,
    "keys-file": {
      type: "string",
      description: "Where the first keys are written; without it they are shown",
      valueHint: "FILE",
    },
  },
  async run({ args }) {
    const appliance = connect(args.data);
    const { instance } = appliance;
    await appliance.call("/healthz"); // says in a sentence when nobody is there or nobody may
    const { url } = await appliance.ask(z.object({ url: z.string() }), "/admin/status");
    const file = args["keys-file"] === undefined ? null : resolve(args["keys-file"]);
    const made = await ensureFirstKeys(instance.sockets.admin, url, (keys) => keepKeys(keys, file));
    if (!made) process.stdout.write("There are keys already, which were handed over when they were made.\n");
  },
});

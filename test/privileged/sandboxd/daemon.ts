import { configSchema } from "../../../src/config/schema.ts";
import { openInstance } from "../../../src/instance/instance.ts";
import { openStderr } from "../../../src/kernel/stderr.ts";
import { createLog } from "../../../src/log.ts";
import { startSandboxd } from "../../../src/sandboxd/sandboxd.ts";

/** A sandboxd in a process of its own, to be killed: daemon.ts DATA LIB EXEC-JSON. Prints a line when it listens. */
const [data = "", lib = "", exec = "{}"] = process.argv.slice(2);
const config = configSchema.parse({ exec: JSON.parse(exec) });
await startSandboxd({
  instance: openInstance(data),
  config,
  lib,
  log: createLog("sandboxd", openStderr().write),
});
process.stdout.write("ready\n");

import { configSchema } from "../../../../src/config/schema.ts";
import { openInstance } from "../../../../src/instance/instance.ts";
import { openStderr } from "../../../../src/kernel/stderr.ts";
import { createLog } from "../../../../src/log.ts";
import { startSandboxd } from "../../../../src/sandboxd/sandboxd.ts";

/** A sandboxd in a process of its own, to be killed: daemon.ts DATA LIB. Prints a line when it listens. */
const [data = "", lib = ""] = process.argv.slice(2);
await startSandboxd({
  instance: openInstance(data),
  config: configSchema.parse({ exec: { pool: 0 }, runs: { memory_mb: 256 } }),
  lib,
  log: createLog("sandboxd", openStderr().write),
});
process.stdout.write("ready\n");

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { defineCommand } from "citty";
import { environment, type Environment } from "../config/environment.ts";
import { AppError } from "../errors.ts";
import { dataArgument } from "./arguments.ts";
import { readLink, runConfined } from "./role.ts";
import { strict } from "./strict.ts";

export const api = defineCommand({
  meta: { name: "api", description: "The API's process", hidden: true },
  plugins: [strict],
  args: {
    ...dataArgument,
    "config-name": {
      type: "string",
      description: "What messages call the configuration",
      valueHint: "FILE",
    },
    listen: { type: "string", description: "Where it listens", valueHint: "HOST:PORT" },
  },
  async run({ args, rawArgs }) {
    const options = { role: "api", data: args.data, args: ["api", ...rawArgs], env: environment() } as const;
    await runConfined(options, async ({ instance, env, link, log, stderr, onSlowStart }) => {
      const masterKey = link === null ? credential(env) : readLink(link, MASTER_KEY_BYTES);
      checkMasterKey(masterKey);
      const { loadConfig } = await import("../config/load.ts");
      const { confinementCheck } = await import("../kernel/verify.ts");
      const { startApi } = await import("../api/role.ts");
      const overrides =
        args.listen === undefined ? [] : [{ key: "http.listen", value: args.listen, from: "--listen" }];
      // A copy that root made: what it was copied from is out of sight.
      const shownAs = args["config-name"] ?? instance.configFile;
      const load = () => loadConfig({ file: instance.publishedConfig, shownAs, env, overrides });
      const running = await startApi({
        instance,
        masterKey,
        loaded: load(),
        log,
        stderr,
        confinement: () => [confinementCheck("api", instance)],
        onSlowStart,
      });
      return { ...running, reload: () => running.reload(load()) };
    });
  },
});

const MASTER_KEY_BYTES = 32;

/** systemd's LoadCredential=master.key, in a directory that only this service sees. */
function credential(env: Environment): Uint8Array {
  const directory = env["CREDENTIALS_DIRECTORY"];
  if (directory === undefined) {
    throw new AppError("unavailable", "api has no master key: start it by its unit, or by cofferdam serve.");
  }
  return readFileSync(join(directory, "master.key"));
}

/** An appliance without its key must not come up and take data all the same. */
function checkMasterKey(key: Uint8Array): void {
  if (key.length !== MASTER_KEY_BYTES) {
    throw new AppError(
      "unavailable",
      `The master key has ${key.length} bytes instead of ${MASTER_KEY_BYTES}; restore master.key from a backup.`,
    );
  }
}

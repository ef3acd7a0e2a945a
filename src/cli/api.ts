import { defineCommand } from "citty";
import { credential } from "../config/credential.ts";
import { environment, type Environment } from "../config/environment.ts";
import { AppError } from "../errors.ts";
import { BOOT_ID } from "../kernel/confine.ts";
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
    await runConfined(options, async ({ instance, env, link, log, stderr, onSlowStart, onLost }) => {
      const { MASTER_KEY_BYTES, openKeyring } = await import("../instance/keyring.ts");
      const masterKey = link === null ? masterKeyOf(env) : readLink(link, MASTER_KEY_BYTES);
      const { secret } = openKeyring(instance.keyringFile, masterKey);
      const { loadConfig } = await import("../config/load.ts");
      const { confinementCheck } = await import("../kernel/verify.ts");
      const { startApi } = await import("../api/role.ts");
      const overrides =
        args.listen === undefined ? [] : [{ key: "http.listen", value: args.listen, from: "--listen" }];
      // A copy that root made: what it was copied from is out of sight.
      const shownAs = args["config-name"] ?? instance.configFile;
      const bootId = env[BOOT_ID];
      if (bootId === undefined) throw new AppError("internal", "api does not know which boot this is.");
      const load = () => loadConfig({ file: instance.publishedConfig, shownAs, env, overrides });
      const running = await startApi({
        instance,
        secret,
        loaded: load(),
        log,
        stderr,
        bootId,
        bucketCredential: () => credential("s3", env),
        confinement: () => [confinementCheck("api", instance)],
        onSlowStart,
        onLost,
      });
      return { ...running, reload: () => running.reload(load()) };
    });
  },
});

function masterKeyOf(env: Environment): Uint8Array {
  const key = credential("master.key", env);
  if (key !== null) return key;
  throw new AppError("unavailable", "api has no master key: start it by its unit, or by cofferdam serve.");
}

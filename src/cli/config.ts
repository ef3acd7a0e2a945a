import { resolve } from "node:path";
import { defineCommand } from "citty";
import { z } from "zod";
import { environment } from "../config/environment.ts";
import { bucketOf, credentialsFileOf } from "../config/bucket.ts";
import { databaseServerOf } from "../config/database.ts";
import { listeningOf } from "../config/listen.ts";
import { loadConfig } from "../config/load.ts";
import { setting, settingsOf } from "../config/settings.ts";
import { AppError } from "../errors.ts";
import { openInstance } from "../instance/instance.ts";
import { checkCredentials } from "../blobs/s3/publish.ts";
import { connect } from "./appliance.ts";
import { readPair } from "../tls/pair.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, table } from "./output.ts";
import { subnetOf } from "../sandboxd/network/subnet.ts";
import { strict } from "./strict.ts";
import { terminal } from "./terminal.ts";

const settingList = z.object({ settings: z.array(setting) });

const show = defineCommand({
  meta: { name: "show", description: "What the running appliance goes by, and where each value came from" },
  plugins: [strict],
  args: { ...dataArgument, ...jsonArgument },
  async run({ args }) {
    const answer = await connect(args.data).ask(settingList, "/admin/config").catch(notRunning(args.data));
    print(args.json, answer, () =>
      table(
        answer.settings.map(({ key, value, origin }) => ({
          key,
          value: JSON.stringify(value),
          from: origin,
        })),
        "There are no settings.",
      ),
    );
  },
});

/** What it would go by if it were started now. */
function notRunning(data: string) {
  return (error: unknown): z.infer<typeof settingList> => {
    if (!(error instanceof AppError) || error.code !== "unavailable") throw error;
    const loaded = loadConfig({ defaultFile: openInstance(data).configFile, env: environment() });
    terminal.warn("the appliance is not running; this is what a start would go by.");
    return { settings: settingsOf(loaded) };
  };
}

const checkFile = defineCommand({
  meta: { name: "check", description: "Whether a configuration file would be taken; exits 2 when not" },
  plugins: [strict],
  args: {
    file: { type: "positional", description: "The file", required: true, valueHint: "FILE" },
    ...jsonArgument,
  },
  async run({ args }) {
    const { config } = loadConfig({ file: resolve(args.file), env: environment() });
    const { tls } = listeningOf(config.http);
    if (tls !== null) await readPair(tls);
    bucketOf(config.storage);
    subnetOf(config.runs);
    const credentials = credentialsFileOf(config.storage);
    if (credentials !== null) checkCredentials(credentials);
    databaseServerOf(config.database);
    print(args.json, { ok: true }, () => `${args.file} is well.`);
  },
});

export const config = defineCommand({
  meta: { name: "config", description: "The configuration in force, or one to be" },
  subCommands: { show, check: checkFile },
});

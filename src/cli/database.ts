import { existsSync, readFileSync, rmSync } from "node:fs";
import { resolve } from "node:path";
import { defineCommand } from "citty";
import { databaseServerOf } from "../config/database.ts";
import { environment } from "../config/environment.ts";
import { loadConfig } from "../config/load.ts";
import { openDatabase } from "../db/open.ts";
import { readServerFiles } from "../db/server/publish.ts";
import { fillServer } from "../db/server/transfer.ts";
import { AppError } from "../errors.ts";
import { openInstance } from "../instance/instance.ts";
import { renameDurably } from "../kernel/durable.ts";
import { openKeyring } from "../instance/keyring.ts";
import { withoutApi } from "../instance/presence.ts";
import { closeState, openState } from "../instance/state.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print } from "./output.ts";
import { whenStopped } from "./stopping.ts";
import { strict } from "./strict.ts";

const move = defineCommand({
  meta: {
    name: "move",
    description:
      "Move the database from its file to the server of [database] url, while the appliance is stopped",
  },
  plugins: [strict],
  args: {
    ...dataArgument,
    ...jsonArgument,
    config: { type: "string", description: "Used instead of the instance's config.toml", valueHint: "FILE" },
  },
  async run({ args }) {
    if (process.getuid?.() !== 0) throw new AppError("forbidden", "This has to be run by root; use sudo.");
    const instance = openInstance(args.data);
    const { config } = loadConfig({
      file: args.config === undefined ? undefined : resolve(args.config),
      defaultFile: instance.configFile,
      env: environment(),
    });
    const server = databaseServerOf(config.database);
    if (server === null) {
      throw new AppError(
        "invalid",
        `Set [database] url in ${instance.configFile} first; it is where the database moves to.`,
      );
    }
    const credentials = readServerFiles(server);
    const file = instance.api.database;
    const { secret } = openKeyring(instance.keyringFile, readFileSync(instance.masterKeyFile));
    await whenStopped(instance);
    await openState(instance, secret);
    const moved = { rows: 0 };
    const isStopped = await withoutApi(instance, async () => {
      if (!existsSync(file))
        throw new AppError("not_found", `There is no database in ${file}; nothing is to be moved.`);
      const db = await openDatabase(file);
      try {
        moved.rows = await fillServer(db.$client, { url: server.url, credentials });
        await db.$client.execute("PRAGMA wal_checkpoint(TRUNCATE)");
      } finally {
        db.close();
      }
      renameDurably(file, `${file}.moved`);
      for (const end of ["-wal", "-shm"]) rmSync(file + end, { force: true });
    });
    if (!isStopped) {
      throw new AppError("conflict", "The appliance runs; stop it first: systemctl stop cofferdam.target");
    }
    await closeState(instance);
    const kept = `${file}.moved`;
    print(
      args.json,
      { rows: moved.rows, url: server.url, kept },
      () =>
        `${moved.rows} rows are on the server now. The file is kept as ${kept}; remove it when all is well.`,
    );
  },
});

export const database = defineCommand({
  meta: { name: "database", description: "Where keys, events and the rest are kept" },
  subCommands: { move },
});

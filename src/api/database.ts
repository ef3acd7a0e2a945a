import { existsSync } from "node:fs";
import { hostname } from "node:os";
import { databaseServerOf } from "../config/database.ts";
import type { Config } from "../config/schema.ts";
import { openDatabase, type Database } from "../db/open.ts";
import { readPublishedServer, serverCredentials } from "../db/server/published.ts";
import { AppError } from "../errors.ts";
import type { Instance } from "../instance/instance.ts";
import type { Log } from "../log.ts";
import type { Secrets } from "../secrets.ts";

export interface ApplianceDatabaseParts {
  readonly instance: Instance;
  readonly config: Config["database"];
  readonly secrets: Pick<Secrets, "derive">;
  readonly log: Log;
  /** Asks whoever waits for the start to wait so long from now on. */
  readonly onSlowStart: (forMs: number) => void;
  /** This process has to end. */
  readonly onLost: (error: AppError) => void;
}

/** More than the upgrade of any database that fits on a disk takes. */
const UPGRADE_MS = 6 * 60 * 60_000;
/** Asked for again before it is over. */
const WAITING_MS = 60_000;

/** The database that the configuration names, and how to take what was published anew of its server. */
export async function openApplianceDatabase(
  parts: ApplianceDatabaseParts,
): Promise<{ readonly db: Database; readonly reload: () => void }> {
  const { instance, log, onSlowStart } = parts;
  const server = databaseServerOf(parts.config);
  const file = instance.api.database;
  if (server === null) {
    if (!existsSync(file) && existsSync(`${file}.moved`)) {
      throw new AppError(
        "invalid",
        `[database] url is not set, but the database was moved to a server; ${file}.moved is as it was before that. ` +
          "Set url again, or put that file aside to begin with an empty one.",
      );
    }
    const db = await openDatabase(file, {
      onUpgrade(version) {
        log.info("the database is upgraded; a copy of it is kept beside it", { version });
        onSlowStart(UPGRADE_MS);
      },
    });
    return { db, reload() {} };
  }
  if (existsSync(file)) {
    throw new AppError(
      "invalid",
      `[database] url names a server, but there is a database in ${file}: its keys and events would be out of sight. ` +
        "Move it to the server, or put it aside; docs/database.md says how.",
    );
  }
  const credentials = { current: serverCredentials(instance.publishedServer) };
  // What only this takes is not loaded by everybody.
  const { openServer } = await import("../db/server/open.ts");
  const db = await openServer({
    url: server.url,
    credentials: () => credentials.current,
    log,
    place: `${hostname()}/${instance.inst}`,
    mark: Buffer.from(parts.secrets.derive("database mark")).toString("hex"),
    onWaiting() {
      onSlowStart(WAITING_MS);
      // A token that was made meanwhile.
      credentials.current = readPublishedServer(instance.publishedServer)?.good ?? credentials.current;
    },
    onLost: parts.onLost,
  });
  return {
    db,
    reload() {
      credentials.current = serverCredentials(instance.publishedServer);
    },
  };
}

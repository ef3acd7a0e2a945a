import { existsSync, readFileSync } from "node:fs";
import { defineCommand } from "citty";
import { publishCredentials } from "../blobs/s3/publish.ts";
import { credentialsFileOf } from "../config/bucket.ts";
import { credential } from "../config/credential.ts";
import { environment } from "../config/environment.ts";
import { databaseServerOf, type DatabaseServer } from "../config/database.ts";
import { listeningOf, type Listening } from "../config/listen.ts";
import { loadConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { publishServer } from "../db/server/publish.ts";
import { AppError } from "../errors.ts";
import { createInstance, ensureRunDirectories, publishConfig } from "../instance/setup.ts";
import { publishGatewayKey } from "../instance/gateway-key.ts";
import { openInstance, type Instance } from "../instance/instance.ts";
import { openKeyring } from "../instance/keyring.ts";
import { closeState, openState } from "../instance/state.ts";
import { publishPrices } from "../prices/published.ts";
import { publishPair, refreshPair } from "../tls/publish.ts";
import { dataArgument } from "./arguments.ts";
import { terminal } from "./terminal.ts";
import { strict } from "./strict.ts";

export const prepare = defineCommand({
  meta: {
    name: "prepare",
    description: "Make what is missing of an instance, before a start and a reload",
    hidden: true,
  },
  plugins: [strict],
  args: {
    ...dataArgument,
    certificate: {
      type: "boolean",
      description:
        "Publish for api, too, what only root may read: the certificate, the bucket's credentials, the database's token",
    },
    unlock: { type: "boolean", description: "Unlock the appliance's own files as well, before api starts" },
    gateway: {
      type: "boolean",
      description: "Put the gateway's key where its start takes it from",
    },
    lock: { type: "boolean", description: "Only lock those again, once api has ended" },
  },
  async run({ args }) {
    if (process.getuid?.() !== 0) throw new AppError("forbidden", "prepare has to be run by root; use sudo.");
    if (args.lock === true) return closeState(openInstance(args.data));
    // Where the key is given to api alone, sandboxd's start can't say whether it is missing.
    const elsewhere = args.certificate === true ? null : "elsewhere";
    const given = credential("master.key", environment());
    const instance = createInstance(args.data, given ?? elsewhere);
    ensureRunDirectories(instance);
    publishConfig(instance, existsSync(instance.configFile) ? instance.configFile : null);
    publishModelPrices(instance);
    if (args.certificate === true) await publishSecrets(instance);
    if (args.gateway === true) giveGatewayKey(instance, given);
    if (args.unlock === true) await openState(instance, secretOf(instance, given));
  },
});

/** A file that is bad leaves the prices as they were, and a machine that was just started without its changes. */
function publishModelPrices(instance: Instance): void {
  const fault = publishPrices(instance, configOf(instance)?.providers.prices_file ?? "");
  if (fault !== null) terminal.warn(fault);
}

/** What is wrong with it stops nothing but runs: the gateway says so as well, to doctor. */
function giveGatewayKey(instance: Instance, given: Uint8Array | null): void {
  const isElsewhere = given === null && !existsSync(instance.masterKeyFile);
  const fault = publishGatewayKey(instance, isElsewhere ? null : secretOf(instance, given));
  if (fault !== null) terminal.warn(`The gateway starts without its key: ${fault}`);
}

function secretOf({ keyringFile, masterKeyFile }: Instance, given: Uint8Array | null): Uint8Array {
  return openKeyring(keyringFile, given ?? readFileSync(masterKeyFile)).secret;
}

/** What is wrong, in the configuration or the files, api finds published and says itself: it decides what to do. */
async function publishSecrets(instance: Instance): Promise<void> {
  const files = filesOf(instance);
  if (files === null) return;
  if (files.tls === null) publishPair(instance.publishedPair, null);
  else await refreshPair(instance.publishedPair, files.tls);
  publishCredentials(instance.publishedCredentials, files.credentials);
  publishServer(instance.publishedServer, files.server);
}

interface Files {
  readonly tls: Listening["tls"];
  readonly credentials: string | null;
  readonly server: DatabaseServer | null;
}

function filesOf(instance: Instance): Files | null {
  return unlessWrong(() => {
    const { config } = loadConfig({ defaultFile: instance.configFile, env: environment() });
    return {
      tls: listeningOf(config.http).tls,
      credentials: credentialsFileOf(config.storage),
      server: databaseServerOf(config.database),
    };
  });
}

function configOf(instance: Instance): Config | null {
  return unlessWrong(() => loadConfig({ defaultFile: instance.configFile, env: environment() }).config);
}

function unlessWrong<T>(look: () => T): T | null {
  try {
    return look();
  } catch (error) {
    if (error instanceof AppError) return null;
    throw error;
  }
}

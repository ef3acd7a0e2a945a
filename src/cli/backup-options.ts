import { existsSync, readFileSync, statSync } from "node:fs";
import { openSealed } from "../backup/access.ts";
import { backupsIn } from "../backup/index.ts";
import { keysOf } from "../backup/layout.ts";
import type { BlobStore } from "../blobs/store.ts";
import { environment } from "../config/environment.ts";
import { loadConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { AppError } from "../errors.ts";
import { backupId, type BackupId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import { openKeyring, openKeyringText } from "../instance/keyring.ts";
import { jsonArgument } from "./output.ts";
import { dataArgument } from "./arguments.ts";
import { terminal } from "./terminal.ts";

export const targetArguments = {
  endpoint: {
    type: "string",
    description: "Of s3://: the server, when it is not Amazon's",
    valueHint: "URL",
  },
  region: { type: "string", description: "Of s3://: the region", valueHint: "NAME" },
  "credentials-file": {
    type: "string",
    description: "Of s3://: aws_access_key_id and aws_secret_access_key, as NAME = VALUE lines",
    valueHint: "FILE",
  },
  ...dataArgument,
  ...jsonArgument,
} as const;

export const fromArgument = {
  from: { type: "string", description: "Where they are ([backup] to)", valueHint: "TARGET" },
} as const;

export const openerArguments = {
  "passphrase-file": {
    type: "string",
    description: "What opens the backup: its passphrase",
    valueHint: "FILE",
  },
  "identity-file": {
    type: "string",
    description: "Or its recipient's identity, of age's",
    valueHint: "FILE",
  },
  "master-key": {
    type: "string",
    description: "Or the master key of the appliance it is of",
    valueHint: "FILE",
  },
} as const;

export interface OpenerOptions {
  readonly "passphrase-file"?: string | undefined;
  readonly "identity-file"?: string | undefined;
  readonly "master-key"?: string | undefined;
}

export interface OwnSecret {
  readonly secret: Uint8Array;
  /** The file as it is. */
  readonly keyring: Uint8Array;
  /** Likewise; null of an appliance whose gateway was not started yet. */
  readonly gatewayKey: Uint8Array | null;
}

/** This appliance's own, which only root may read. */
export function ownSecret(instance: Instance, masterKey: string | undefined): OwnSecret {
  refuseOthers();
  const key = readNamed(masterKey ?? instance.masterKeyFile, "The master key");
  const { secret } = openKeyring(instance.keyringFile, key);
  const { keyFile } = instance.gateway;
  const gatewayKey = existsSync(keyFile) ? readFileSync(keyFile) : null;
  return { secret, keyring: readFileSync(instance.keyringFile), gatewayKey };
}

export function refuseOthers(): void {
  if (process.getuid?.() === 0) return;
  throw new AppError("forbidden", "This takes the master key, which is root's; use sudo.");
}

/** The secret of the appliance that a backup is of, by what the caller has to open it; null when that is nothing. */
export async function secretBy(
  options: OpenerOptions,
  store: Pick<BlobStore, "get">,
  id: BackupId,
): Promise<Uint8Array | null> {
  const { "passphrase-file": passphrase, "identity-file": identity, "master-key": masterKey } = options;
  const given = [passphrase, identity, masterKey].filter((one) => one !== undefined);
  if (given.length > 1) {
    throw new AppError("bad_input", "Give one of --passphrase-file, --identity-file and --master-key.");
  }
  if (masterKey !== undefined) {
    const text = await store.get(keysOf(id).keyring);
    if (text === null)
      throw new AppError("internal", `The backup's object ${keysOf(id).keyring} is missing.`);
    return openKeyringText(Buffer.from(text).toString(), readNamed(masterKey, "The master key"), id).secret;
  }
  if (passphrase === undefined && identity === undefined) return null;
  const sealed = await store.get(keysOf(id).secret);
  if (sealed === null) {
    throw new AppError(
      "invalid",
      `${id} was made without a passphrase and a recipient; only the master key opens it: --master-key FILE.`,
    );
  }
  if (passphrase !== undefined) return openSealed({ passphrase: readPassphrase(passphrase) }, sealed);
  return openSealed({ identities: readNamed(identity ?? "", "The identity").toString() }, sealed);
}

/** Without the line's end that every editor puts there. */
export function readPassphrase(file: string): string {
  return readNamed(file, "The passphrase")
    .toString()
    .replace(/\r?\n$/, "");
}

export function readNamed(file: string, what: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? `there is no file ${file}` : `${file} cannot be read (${code})`;
    throw new AppError("not_found", `${what} is not there: ${why}.`, { cause: error });
  }
}

/** The instance's own, or the copy of what serve was given instead. */
export function configFileOf({ publishedConfig, configFile }: Instance): string {
  return existsSync(configFile) ? configFile : publishedConfig;
}

export function backupSettings(instance: Instance): Pick<Config, "backup" | "storage"> {
  const file = configFileOf(instance);
  return loadConfig({ defaultFile: file, shownAs: instance.configFile, env: environment() }).config;
}

/** The one that was named, or the newest. */
export async function chosenBackup(
  store: Pick<BlobStore, "list">,
  named: string | undefined,
): Promise<BackupId> {
  const { ids } = await backupsIn(store);
  if (named === undefined) {
    const newest = ids.at(-1);
    if (newest === undefined) throw new AppError("not_found", "There is no whole backup there.");
    return newest;
  }
  const id = backupId.schema.safeParse(named);
  if (id.success && ids.includes(id.data)) return id.data;
  throw new AppError(
    "not_found",
    `There is no backup "${named}"; "cofferdam backup list" shows those that are there.`,
  );
}

const QUIET_MS = 2_000;

/** Tells a person from time to time how far it is, once it takes long. */
export function createProgress() {
  let told = performance.now();
  return (what: string, done: number, of: number | null): void => {
    const now = performance.now();
    if (now - told < QUIET_MS) return;
    told = now;
    terminal.info(of === null ? `${what} …` : `${what}: ${done} of ${of}`);
  };
}

/** In memory: the copy of the database that is looked at there is in the clear. */
export function scratchParent(named: string | undefined): string {
  const dir = named ?? "/dev/shm";
  if (existsSync(dir) && statSync(dir).isDirectory()) return dir;
  throw new AppError(
    "not_found",
    `There is no directory ${dir}; name one on an encrypted disk: --scratch DIR.`,
  );
}

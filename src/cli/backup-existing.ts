import { existsSync } from "node:fs";
import { join } from "node:path";
import { checkTarget } from "../backup/marker.ts";
import { configSchema, type Config } from "../config/schema.ts";
import { AppError } from "../errors.ts";
import { openInstance } from "../instance/instance.ts";
import { createSecrets, type Secrets } from "../secrets.ts";
import { backupSettings, chosenBackup, ownSecret, secretBy, type OpenerOptions } from "./backup-options.ts";
import { openTarget, type Target, type TargetOptions } from "./backup-target.ts";

interface ExistingOptions extends OpenerOptions, TargetOptions {
  readonly from?: string | undefined;
  readonly backup?: string | undefined;
  readonly data: string;
}

export interface Existing {
  readonly target: Target;
  /** Of the appliance that the backups are of. */
  readonly secret: Uint8Array;
  readonly secrets: Secrets;
  readonly settings: Config["backup"];
}

/** The target that is named or configured, with what opens it: what the caller gives, or else this appliance's own. */
export async function existing(args: ExistingOptions): Promise<Existing> {
  const instance = existsSync(join(args.data, "inst")) ? openInstance(args.data) : null;
  const settings = instance === null ? configSchema.parse({}).backup : backupSettings(instance).backup;
  const from = args.from ?? settings.to;
  if (from === "") {
    throw new AppError(
      "bad_input",
      "Say where they are: --from DIR or --from s3://BUCKET/PREFIX, or set [backup] to.",
    );
  }
  const target = openTarget(from, args, settings);
  await target.look(false);
  await checkTarget(target.store, null);
  const secret = (await given(args, target)) ?? own(instance);
  const secrets = createSecrets(secret);
  await checkTarget(target.store, secrets);
  return { target, secret, secrets, settings };
}

async function given(args: ExistingOptions, { store }: Target): Promise<Uint8Array | null> {
  const options = [args["passphrase-file"], args["identity-file"], args["master-key"]];
  if (options.every((one) => one === undefined)) return null;
  return secretBy(args, store, await chosenBackup(store, args.backup));
}

function own(instance: ReturnType<typeof openInstance> | null): Uint8Array {
  if (instance !== null) return ownSecret(instance, undefined).secret;
  throw new AppError(
    "bad_input",
    "Say what opens it: --passphrase-file, --identity-file or --master-key; there is no appliance here.",
  );
}

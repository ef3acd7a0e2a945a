import { existsSync } from "node:fs";
import { defineCommand } from "citty";
import { restoreBackup } from "../backup/restore.ts";
import { refuseUsed } from "../backup/unused.ts";
import { applianceName, checkTarget } from "../backup/marker.ts";
import { placeRestored } from "../instance/restored.ts";
import { environment } from "../config/environment.ts";
import { loadConfig } from "../config/load.ts";
import { configSchema } from "../config/schema.ts";
import { AppError } from "../errors.ts";
import { DEFAULT_DATA, openInstance, type Instance } from "../instance/instance.ts";
import { localUser, roleUser } from "../kernel/users.ts";
import { lockInstance } from "../instance/lock.ts";
import { createLog } from "../log.ts";
import { withoutApi } from "../instance/presence.ts";
import { createSecrets } from "../secrets.ts";
import { closeState, openState } from "../instance/state.ts";
import { ensureRunDirectories } from "../instance/setup.ts";
import {
  chosenBackup,
  createProgress,
  openerArguments,
  ownSecret,
  readNamed,
  refuseOthers,
  secretBy,
  targetArguments,
  type OpenerOptions,
} from "./backup-options.ts";
import { openTarget, type TargetOptions } from "./backup-target.ts";
import { print, shortTime } from "./output.ts";
import { whenStopped } from "./stopping.ts";
import { strict } from "./strict.ts";

export const restore = defineCommand({
  meta: {
    name: "restore",
    description: "Bring back a whole appliance from a backup, into one that is empty and stopped",
  },
  plugins: [strict],
  args: {
    from: {
      type: "positional",
      description: "Where the backups are: a directory, or s3://BUCKET/PREFIX",
      required: true,
    },
    backup: { type: "string", description: "This one instead of the newest", valueHint: "ID" },
    "disable-webhooks": {
      type: "boolean",
      description: "For a trial beside the original: send nothing to its endpoints",
    },
    ...openerArguments,
    ...targetArguments,
  },
  async run({ args }) {
    refuseOthers();
    const instance = openInstance(args.data);
    ensureRunDirectories(instance);
    await whenStopped(instance);
    const lock = lockInstance(instance);
    try {
      const alone = await withoutApi(instance, async () => restoreInto(instance, args));
      if (!alone) throw running(instance);
      await closeState(instance);
    } finally {
      lock.release();
    }
  },
});

interface RestoreOptions extends OpenerOptions, TargetOptions {
  readonly from: string;
  readonly backup?: string | undefined;
  readonly "disable-webhooks"?: boolean | undefined;
  readonly json?: boolean | undefined;
}

async function restoreInto(instance: Instance, args: RestoreOptions): Promise<void> {
  if (placeRestored(instance.data)) {
    print(
      args.json,
      { restored: true, resumed: true },
      () => `The restore that was interrupted is complete. ${next(instance)}`,
    );
    return;
  }
  const { database } = loadConfig({ defaultFile: instance.configFile, env: environment() }).config;
  if (database.url !== "") {
    throw new AppError(
      "conflict",
      `${instance.configFile} names a libSQL server, which may hold an appliance's database. Take [database] out of it first.`,
    );
  }
  await openState(instance, ownSecret(instance, undefined).secret);
  await refuseUsed(instance);
  const target = openTarget(args.from, args, configSchema.parse({}).backup);
  await target.look(false);
  await checkTarget(target.store, null);
  const id = await chosenBackup(target.store, args.backup);
  const secret = await secretBy(args, target.store, id);
  if (secret === null) {
    throw new AppError(
      "bad_input",
      "Say what opens the backup: --passphrase-file FILE, --identity-file FILE or --master-key FILE.",
    );
  }
  const secrets = createSecrets(secret);
  await checkTarget(target.store, secrets);
  const index = await restoreBackup({
    store: target.store,
    id,
    secret,
    instance,
    masterKey: readNamed(instance.masterKeyFile, "This appliance's master key"),
    api: roleUser("cofferdam"),
    disableWebhooks: args["disable-webhooks"] === true,
    origin: { keyId: null, localUser: localUser(environment()["SUDO_USER"]), requestId: null, address: null },
    log: createLog("restore", (line) => void process.stderr.write(line)),
    progress: createProgress(),
    now: Date.now(),
  });
  const takenAt = new Date(index.created).toISOString();
  print(
    args.json,
    {
      restored: true,
      resumed: false,
      appliance: applianceName(secrets),
      backup_id: id,
      taken_at: takenAt,
      namespaces: index.namespaces,
    },
    () =>
      `${id} of the appliance ${applianceName(secrets)} is restored, as it was at ${shortTime(takenAt)}. ` +
      `Its keys count from now on, and no others. ${next(instance)}`,
  );
}

function running({ data, inst }: Instance): AppError {
  const at = data === DEFAULT_DATA ? "" : `@${inst}`;
  return new AppError(
    "conflict",
    existsSync("/run/systemd/system")
      ? `The appliance runs; stop it first: systemctl stop cofferdam${at}.target`
      : `The appliance of ${data} runs; stop "cofferdam serve" first.`,
  );
}

function next({ data, inst }: Instance): string {
  const at = data === DEFAULT_DATA ? "" : `@${inst}`;
  return existsSync("/run/systemd/system")
    ? `Start it with: systemctl start cofferdam${at}.target`
    : `Start it with: cofferdam serve --data ${data}`;
}

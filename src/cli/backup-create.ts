import { existsSync, readFileSync } from "node:fs";
import { defineCommand } from "citty";
import { z } from "zod";
import type { Recipient } from "../backup/access.ts";
import { createBackup } from "../backup/create.ts";
import { backupsIn, type BackupIndex } from "../backup/index.ts";
import { timeOf } from "../backup/layout.ts";
import { lockTarget } from "../backup/lock.ts";
import { applianceName, claimTarget } from "../backup/marker.ts";
import { isTrial } from "../instance/restored.ts";
import { pruneBackups, type Pruned } from "../backup/prune.ts";
import type { Config } from "../config/schema.ts";
import { AppError } from "../errors.ts";
import { createSecrets } from "../secrets.ts";
import { connect, type Appliance } from "./appliance.ts";
import {
  backupSettings,
  configFileOf,
  createProgress,
  ownSecret,
  readPassphrase,
  targetArguments,
} from "./backup-options.ts";
import { withCapture } from "./backup-source.ts";
import { openTarget, refuseOwn, type Target } from "./backup-target.ts";
import { print, shortSize } from "./output.ts";
import { strict } from "./strict.ts";
import { terminal } from "./terminal.ts";

const HOUR_MS = 60 * 60_000;
/** A timer that fires a little early must not make it every second time. */
const EARLY_MS = 10 * 60_000;

export const create = defineCommand({
  meta: {
    name: "create",
    description: "Back up the running appliance, and copy only what is new since the last time",
  },
  plugins: [strict],
  args: {
    to: {
      type: "string",
      description: "A directory, or s3://BUCKET/PREFIX ([backup] to)",
      valueHint: "TARGET",
    },
    recipient: {
      type: "string",
      description: "Who holds this one's identity (age-keygen) can restore it without the master key",
      valueHint: "age1…",
    },
    "passphrase-file": {
      type: "string",
      description: "Who knows the passphrase in there can restore it without the master key",
      valueHint: "FILE",
    },
    "include-blobs": {
      type: "boolean",
      description: "In S3 mode: also the contents of files, which the appliance's bucket has",
    },
    keep: { type: "string", description: "Afterwards remove all but the newest so many", valueHint: "N" },
    "master-key": { type: "string", description: "The master key, when it is not in DIR", valueHint: "FILE" },
    due: {
      type: "boolean",
      description:
        "Only when [backup] names a target, and the newest there is older than every_h; for timers",
    },
    ...targetArguments,
  },
  async run({ args }) {
    const appliance = connect(args.data);
    // Its target is the original's, whose backups it would push out.
    if (args.due === true && isTrial(appliance.instance.data)) return;
    const { backup, storage } = backupSettings(appliance.instance);
    const to = args.to ?? backup.to;
    if (to === "") {
      if (args.due === true) return;
      throw new AppError(
        "bad_input",
        "Say where to: --to DIR or --to s3://BUCKET/PREFIX, or set [backup] to.",
      );
    }
    const target = openTarget(to, args, backup);
    refuseOwn(target, storage, appliance.instance);
    if (args.due === true) refuseMissing(target);
    if (args.due === true && !(await isDue(target.store, backup))) return;
    const own = ownSecret(appliance.instance, args["master-key"]);
    const secrets = createSecrets(own.secret);
    const recipient = recipientOf(args, backup);
    const keep = keepOf(args.keep, args.due === true ? backup.keep : null);
    const progress = createProgress();

    await target.look(true);
    await claimTarget(target.store, secrets);
    const lock = await lockTarget(target.store, (who) =>
      terminal.info(`waiting to see whether ${who}, which works on ${target.name}, is still there`),
    );
    let index: BackupIndex;
    let pruned: Pruned | null = null;
    try {
      const includeBlobs = storage.kind === "local" || args["include-blobs"] === true || backup.include_blobs;
      index = await withCapture(appliance, includeBlobs, progress, async (capture) =>
        createBackup({
          capture,
          store: target.store,
          lock,
          secrets,
          applianceSecret: own.secret,
          keyring: own.keyring,
          gatewayKey: own.gatewayKey,
          recipient,
          config: configOf(appliance),
          includeBlobs,
          progress,
          now: Date.now(),
        }),
      );
      await record(appliance, index, target.name);
      if (keep !== null)
        pruned = await pruneBackups({ store: target.store, lock, secrets, keep, made: index.id });
    } finally {
      await lock.release();
    }
    print(
      args.json,
      {
        appliance: applianceName(secrets),
        ...shownIndex(index),
        to: target.name,
        removed: pruned?.removed ?? [],
      },
      () => sentencesOf(index, target.name, pruned),
    );
    if (recipient === null && args.json !== true) {
      const key = args["master-key"] ?? appliance.instance.masterKeyFile;
      terminal.warn(
        `only the master key opens this backup: keep a copy of ${key} elsewhere, or give --recipient.`,
      );
    }
    if (index.lacking.length + index.missed.length > 0) process.exitCode = 1;
  },
});

/** Nobody looks at what a timer does: a disk that is not mounted must not become a directory on the appliance's own. */
function refuseMissing({ bucket, name }: Target): void {
  if (bucket !== null || existsSync(name)) return;
  throw new AppError(
    "not_found",
    `There is no directory ${name} for the backups; is its disk mounted? If it is to be there, make it.`,
  );
}

async function isDue(
  store: Parameters<typeof backupsIn>[0],
  { every_h }: Config["backup"],
): Promise<boolean> {
  const now = Date.now();
  // One of tomorrow was made while the clock was wrong, and must not keep all until then from being made.
  const made = (await backupsIn(store)).ids.map(timeOf).filter((time) => time <= now + EARLY_MS);
  return now - Math.max(0, ...made) >= every_h * HOUR_MS - EARLY_MS;
}

function recipientOf(
  args: { readonly recipient?: string | undefined; readonly "passphrase-file"?: string | undefined },
  backup: Config["backup"],
): Recipient | null {
  const file = args["passphrase-file"];
  if (file !== undefined && args.recipient !== undefined) {
    throw new AppError("bad_input", "Give one of --recipient and --passphrase-file.");
  }
  if (file !== undefined) return { passphrase: readPassphrase(file) };
  const recipient = args.recipient ?? backup.recipient;
  return recipient === "" ? null : { recipient };
}

export function keepOf(text: string | undefined, otherwise: number | null): number | null {
  if (text === undefined) return otherwise;
  if (/^[1-9]\d{0,5}$/.test(text)) return Number(text);
  throw new AppError("bad_input", `--keep ${text}: a whole number from 1 on says how many.`);
}

function configOf({ instance }: Appliance): Uint8Array | null {
  const file = configFileOf(instance);
  const content = existsSync(file) ? readFileSync(file) : null;
  return content === null || content.length === 0 ? null : content;
}

/** For the audit log: what leaves the appliance. */
async function record(appliance: Appliance, index: BackupIndex, to: string): Promise<void> {
  await appliance.ask(z.object({ recorded: z.literal(true) }), "/admin/backup/done", {
    method: "POST",
    json: {
      backup_id: index.id,
      to,
      namespaces: index.namespaces,
      blobs: index.blobs?.count ?? 0,
      bytes_added: index.blobs?.addedBytes ?? 0,
    },
  });
}

/** As --json shows a backup. */
export function shownIndex({
  id,
  created,
  program,
  access,
  database,
  namespaces,
  blobs,
  missed,
  lacking,
}: BackupIndex) {
  return {
    backup_id: id,
    created_at: new Date(created).toISOString(),
    program,
    opened_by: access,
    database_bytes: database.content.bytes,
    namespaces,
    blobs: blobs?.count ?? null,
    blob_bytes: blobs?.bytes ?? null,
    blobs_added: blobs?.addedCount ?? null,
    bytes_added: blobs?.addedBytes ?? null,
    missed,
    lacking: lacking.length,
  };
}

function sentencesOf(
  { id, blobs, namespaces, database, missed, lacking }: BackupIndex,
  to: string,
  pruned: Pruned | null,
): string {
  const contents =
    blobs === null
      ? "no blobs, which the appliance's bucket has."
      : `blobs: ${blobs.count} (${shortSize(blobs.bytes)}), of them new: ${blobs.addedCount} (${shortSize(blobs.addedBytes)}).`;
  const lines = [
    `${id} is in ${to}. Namespaces: ${namespaces}, database: ${shortSize(database.content.bytes)}, ${contents}`,
  ];
  if (pruned !== null && pruned.removed.length > 0) {
    lines.push(`Old ones removed: ${pruned.removed.length}, and ${shortSize(pruned.bytes)} with them.`);
  }
  for (const { namespace, reason } of missed) {
    lines.push(
      `The files of ${namespace} are not in it as they are now, but as in the one before: ${reason}`,
    );
  }
  if (lacking.length > 0) {
    lines.push(
      `${lacking.length} blobs are missing or damaged in the appliance itself and so not in it: "cofferdam snapshot verify" says whose they are.`,
    );
  }
  return lines.join("\n");
}

import { defineCommand } from "citty";
import { createObjects } from "../backup/objects.ts";
import { backupsIn, getIndex, type BackupIndex } from "../backup/index.ts";
import { lockTarget } from "../backup/lock.ts";
import { pruneBackups } from "../backup/prune.ts";
import { create, keepOf, shownIndex } from "./backup-create.ts";
import { AppError } from "../errors.ts";
import type { BackupId } from "../ids.ts";
import { existing } from "./backup-existing.ts";
import { fromArgument, openerArguments, targetArguments } from "./backup-options.ts";
import { verify } from "./backup-verify.ts";
import { print, shortSize, shortTime, table } from "./output.ts";
import { strict } from "./strict.ts";
import { terminal } from "./terminal.ts";

const list = defineCommand({
  meta: { name: "list", description: "The backups in a target, oldest first" },
  plugins: [strict],
  args: { ...fromArgument, ...openerArguments, ...targetArguments },
  async run({ args }) {
    const { target, secrets } = await existing(args);
    const { ids } = await backupsIn(target.store);
    const objects = createObjects({ store: target.store, secrets });
    const indexes: BackupIndex[] = [];
    const damaged: { backup_id: BackupId; reason: string }[] = [];
    for (const id of ids) {
      try {
        indexes.push(await getIndex(objects, id));
      } catch (error) {
        if (!(error instanceof AppError)) throw error;
        damaged.push({ backup_id: id, reason: error.message });
      }
    }
    // One that can't be read must not hide the others, which are what is needed then.
    for (const { reason } of damaged) terminal.warn(reason);
    if (damaged.length > 0) process.exitCode = 1;
    print(args.json, { backups: indexes.map(shownIndex), damaged }, () =>
      table(
        indexes.map(({ id, created, namespaces, database, blobs, access }) => ({
          backup: id,
          made: shortTime(new Date(created).toISOString()),
          namespaces: String(namespaces),
          database: shortSize(database.content.bytes),
          files: blobs === null ? "in the bucket" : shortSize(blobs.bytes),
          "opened by": access,
        })),
        "There is no backup yet.",
      ),
    );
  },
});

const prune = defineCommand({
  meta: { name: "prune", description: "Remove old backups, and what only they needed" },
  plugins: [strict],
  args: {
    ...fromArgument,
    keep: { type: "string", description: "So many stay, the newest ([backup] keep)", valueHint: "N" },
    "master-key": openerArguments["master-key"],
    ...targetArguments,
  },
  async run({ args }) {
    const { target, secrets, settings } = await existing(args);
    const keep = keepOf(args.keep, null) ?? settings.keep;
    const lock = await lockTarget(target.store, () => {});
    try {
      const pruned = await pruneBackups({ store: target.store, lock, secrets, keep });
      print(
        args.json,
        {
          kept: pruned.kept,
          removed: pruned.removed,
          blobs_removed: pruned.blobs,
          bytes_removed: pruned.bytes,
        },
        () =>
          `Removed: ${pruned.removed.length}, kept: ${pruned.kept.length}. Blobs that went with them: ${pruned.blobs} (${shortSize(pruned.bytes)}).`,
      );
    } finally {
      await lock.release();
    }
  },
});

export const backup = defineCommand({
  meta: { name: "backup", description: "Backups of the whole appliance" },
  subCommands: { create, list, verify, prune },
});

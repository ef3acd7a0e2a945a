import { defineCommand } from "citty";
import { backupsIn } from "../backup/index.ts";
import { NAMESPACES } from "../backup/layout.ts";
import { lockTarget } from "../backup/lock.ts";
import { createVerifier, type VerifiedBackup } from "../backup/verify.ts";
import type { BlobStore } from "../blobs/store.ts";
import { existing } from "./backup-existing.ts";
import {
  chosenBackup,
  createProgress,
  fromArgument,
  openerArguments,
  scratchParent,
  targetArguments,
} from "./backup-options.ts";
import { print, shortSize } from "./output.ts";
import { openScratch } from "./scratch.ts";
import { strict } from "./strict.ts";
import { terminal } from "./terminal.ts";

export const verify = defineCommand({
  meta: {
    name: "verify",
    description: "Read all that a restore would, and prove it; exits 1 when anything is wrong",
  },
  plugins: [strict],
  args: {
    ...fromArgument,
    backup: { type: "string", description: "This one instead of the newest", valueHint: "ID" },
    all: { type: "boolean", description: "All of them" },
    repair: {
      type: "boolean",
      description: "Take damaged blobs out, so that the next backup puts them there anew",
    },
    scratch: {
      type: "string",
      description: "Where the copy of the database is while it is read, in the clear (in memory: /dev/shm)",
      valueHint: "DIR",
    },
    ...openerArguments,
    ...targetArguments,
  },
  async run({ args }) {
    const { target, secrets } = await existing(args);
    const ids =
      args.all === true
        ? (await backupsIn(target.store)).ids
        : [await chosenBackup(target.store, args.backup)];
    using scratch = openScratch(scratchParent(args.scratch));
    const progress = createProgress();
    const verifier = createVerifier({ store: target.store, secrets, scratch: scratch.dir, progress });
    const verified: VerifiedBackup[] = [];
    for (const id of ids) verified.push(await verifier.verify(id));
    const ok = verified.every((one) => one.ok);
    if (args.repair === true) await takeOut(target.store, verified);
    const backups = verified.map(({ id, ...rest }) => ({ backup_id: id, ...rest }));
    print(args.json, { ok, backups }, () => verified.map(shown).join("\n"));
    if (!ok) process.exitCode = 1;
  },
});

/** Of blobs alone: the appliance may still have them, and nothing else is ever put a second time. */
async function takeOut(store: BlobStore, verified: readonly VerifiedBackup[]): Promise<void> {
  const damaged = verified.flatMap(({ faults }) => faults.map(({ object }) => object));
  const blobs = [...new Set(damaged.filter((key) => key.startsWith(NAMESPACES)))];
  if (blobs.length === 0) return;
  const lock = await lockTarget(store, (who) =>
    terminal.info(`waiting to see whether ${who} is still there`),
  );
  try {
    await store.delete(blobs);
  } finally {
    await lock.release();
  }
  terminal.info(`damaged blobs that were taken out: ${blobs.length}. Make a backup, and verify that.`);
}

function shown({ id, ok, blobs, bytes, events, faults }: VerifiedBackup): string {
  if (ok)
    return `${id} is whole. Blobs: ${blobs} (${shortSize(bytes)}), events in unbroken chains: ${events}.`;
  const lines = faults.map(({ object, reason }) => `  ${object}: ${reason}`);
  return [`${id} is damaged. Faults: ${faults.length}`, ...lines].join("\n");
}

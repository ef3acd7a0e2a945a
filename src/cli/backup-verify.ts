import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { defineCommand } from "citty";
import { backupsIn } from "../backup/index.ts";
import { createVerifier, type VerifiedBackup } from "../backup/verify.ts";
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
import { strict } from "./strict.ts";

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
    const scratch = mkdtempSync(join(scratchParent(args.scratch), "cofferdam-verify-"));
    const verified: VerifiedBackup[] = [];
    try {
      const verifier = createVerifier({ store: target.store, secrets, scratch, progress: createProgress() });
      for (const id of ids) verified.push(await verifier.verify(id));
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
    const ok = verified.every((one) => one.ok);
    const backups = verified.map(({ id, ...rest }) => ({ backup_id: id, ...rest }));
    print(args.json, { ok, backups }, () => verified.map(shown).join("\n"));
    if (!ok) process.exitCode = 1;
  },
});

function shown({ id, ok, blobs, bytes, events, faults }: VerifiedBackup): string {
  if (ok)
    return `${id} is whole. Blobs: ${blobs} (${shortSize(bytes)}), events in unbroken chains: ${events}.`;
  const lines = faults.map(({ object, reason }) => `  ${object}: ${reason}`);
  return [`${id} is damaged. Faults: ${faults.length}`, ...lines].join("\n");
}

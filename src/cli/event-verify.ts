import { existsSync, readFileSync, realpathSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { defineCommand } from "citty";
import { auditKeys } from "../audit/keys.ts";
import { auditReport, verifyAudit, type AuditReport } from "../audit/verify.ts";
import { openCopy } from "../db/open.ts";
import { AppError } from "../errors.ts";
import { openInstance } from "../instance/instance.ts";
import { MASTER_KEY_BYTES, openKeyring } from "../instance/keyring.ts";
import { createSecrets } from "../secrets.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, table } from "./output.ts";
import { strict } from "./strict.ts";
import { workspaceArgument, workspaceOf } from "./workspace-option.ts";

export const verify = defineCommand({
  meta: {
    name: "verify",
    description: "Prove that no event was changed, lost or added; exits 1 when one was",
  },
  plugins: [strict],
  args: {
    ...workspaceArgument,
    database: { type: "string", description: "Look at this copy of the database instead", valueHint: "FILE" },
    "master-key": {
      type: "string",
      description: "The copy's master key with its keyring beside it, when they are not this instance's",
      valueHint: "FILE",
    },
    ...dataArgument,
    ...jsonArgument,
  },
  async run({ args }) {
    const report =
      args.database === undefined
        ? await ofRunning(args.data, args.workspace)
        : await ofCopy(args.data, resolve(args.database), args["master-key"], args.workspace);
    print(args.json, report, () => shown(report));
    if (!report.ok) process.exitCode = 1;
  },
});

async function ofRunning(data: string, workspace: string | undefined): Promise<AuditReport> {
  const appliance = connect(data);
  const query = workspace === undefined ? "" : `?chain=${await workspaceOf(appliance, workspace)}`;
  return appliance.ask(auditReport, `/admin/audit/verify${query}`);
}

async function ofCopy(
  data: string,
  file: string,
  masterKeyFile: string | undefined,
  workspace: string | undefined,
): Promise<AuditReport> {
  // With the key of a copy at hand, this host needs no instance.
  const instance = masterKeyFile === undefined ? openInstance(data) : null;
  if (instance !== null && existsSync(file) && realpathSync(file) === instance.api.database) {
    throw new AppError("conflict", `${file} is in use; leave out --database, or name a copy of it.`);
  }
  const db = await openCopy(file);
  try {
    const keys = auditKeys(createSecrets(secretOf(masterKeyFile ?? instance?.masterKeyFile ?? "")));
    const report = await verifyAudit({ db, ...keys });
    if (workspace === undefined) return report;
    const workspaces = report.workspaces.filter(({ workspace_id }) => workspace_id === workspace);
    if (workspaces.length === 0) throw new AppError("not_found", `The copy has no workspace "${workspace}".`);
    return { ok: workspaces.every(({ ok }) => ok), workspaces };
  } finally {
    db.close();
  }
}

/** The keyring lies beside its master key; an instance from before there was one has derived all from the key itself. */
function secretOf(masterKeyFile: string): Uint8Array {
  const masterKey = readKey(masterKeyFile);
  const keyringFile = join(dirname(masterKeyFile), "keyring");
  return existsSync(keyringFile) ? openKeyring(keyringFile, masterKey).secret : masterKey;
}

function readKey(file: string): Uint8Array {
  let key: Uint8Array;
  try {
    key = readFileSync(file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new AppError("forbidden", `The master key ${file} cannot be read (${code}); run this as root.`, {
      cause: error,
    });
  }
  if (key.length === MASTER_KEY_BYTES) return key;
  throw new AppError(
    "invalid",
    `${file} is no master key: it has ${key.length} bytes instead of ${MASTER_KEY_BYTES}.`,
  );
}

function shown({ ok, workspaces }: AuditReport): string {
  const rows = workspaces.map(({ workspace_id, events, first_bad }) => ({
    workspace: workspace_id,
    events: String(events),
    result:
      first_bad === null
        ? "whole"
        : `broken${first_bad.event_id === null ? "" : ` at ${first_bad.event_id}`}: ${first_bad.reason}`,
  }));
  const verdict = ok
    ? "No event was changed, lost or added."
    : "The audit log is not what the appliance wrote: keep a copy of the data directory, and compare with backups and exports.";
  return `${table(rows, "There are no events.")}\n${verdict}`;
}

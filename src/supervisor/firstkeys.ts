import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { z } from "zod";
import { environment } from "../config/environment.ts";
import { AppError } from "../errors.ts";
import { localUser } from "../kernel/users.ts";
import { LOCAL_USER_HEADER } from "../protocol/local-user.ts";

export interface FirstKeys {
  readonly base_url: string;
  readonly workspace_id: string;
  readonly admin_key: string;
  readonly workspace_key: string;
}

const begun = z.discriminatedUnion("created", [
  z.object({ created: z.literal(false) }),
  z.object({
    created: z.literal(true),
    workspace_id: z.string(),
    admin_key: z.string(),
    workspace_key: z.string(),
  }),
]);

const TIMEOUT_MS = 30_000;
/** api answers with 503 while its database is away. */
const TRIES = 60;
const PAUSE_MS = 1000;

/**
 * Has api make the first workspace, when there is none, and hands its keys to `keep`. api makes them anew until it is
 * told that they were kept, so a crash in between loses nothing. False when there was nothing to make.
 */
export async function ensureFirstKeys(
  adminSocket: string,
  baseUrl: string,
  keep: (keys: FirstKeys) => void,
): Promise<boolean> {
  const answer = begun.parse(await post(adminSocket, "/admin/setup"));
  if (!answer.created) return false;
  const { workspace_id, admin_key, workspace_key } = answer;
  keep({ base_url: baseUrl, workspace_id, admin_key, workspace_key });
  await post(adminSocket, "/admin/setup/confirm");
  return true;
}

/** Into a file, or on stdout. */
export function keepKeys(keys: FirstKeys, file: string | null): void {
  if (file !== null) return writeKeysFile(file, keys);
  process.stdout.write(
    `The first workspace is made. These keys are shown this once:\n` +
      `  workspace      ${keys.workspace_id}\n  admin key      ${keys.admin_key}\n  workspace key  ${keys.workspace_key}\n`,
  );
}

/** Whole and durable before it has its name, and never readable by anyone else. */
function writeKeysFile(path: string, keys: FirstKeys): void {
  const temporary = `${path}.new`;
  try {
    rmSync(temporary, { force: true });
    const fd = openSync(temporary, "wx", 0o600);
    try {
      writeSync(fd, `${JSON.stringify(keys)}\n`);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new AppError("unavailable", `The first keys cannot be written to ${path}: ${why}`, {
      cause: error,
    });
  }
}

async function post(unix: string, path: string): Promise<unknown> {
  let response = await postOnce(unix, path);
  for (let left = TRIES; response.status === 503 && left > 0; left--) {
    await Bun.sleep(PAUSE_MS);
    response = await postOnce(unix, path);
  }
  if (!response.ok) throw new Error(`${path} was answered with ${response.status}: ${await response.text()}`);
  return response.json();
}

async function postOnce(unix: string, path: string): Promise<Response> {
  return fetch(`http://localhost${path}`, {
    unix,
    method: "POST",
    headers: { [LOCAL_USER_HEADER]: localUser(environment()["SUDO_USER"]) },
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
}

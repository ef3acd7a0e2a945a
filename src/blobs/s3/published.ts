import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../errors.ts";
import { parseCredentials, type Credentials } from "./credentials.ts";

/* api sees none of the operator's files: root reads the bucket's credentials and publishes them, for api alone. */

const published = z.object({
  /** Where they came from. */
  file: z.string(),
  /** What stood there when it was last good; null when it never was. */
  text: z.string().nullable(),
  /** What is wrong with the file as it is now. */
  fault: z.string().nullable(),
});
export type PublishedCredentials = z.infer<typeof published>;

/** null when nothing was published. */
export function readPublished(path: string): PublishedCredentials | null {
  const text = readIfThere(path);
  return text === null ? null : published.parse(JSON.parse(text));
}

/** What systemd's LoadCredential= has to call them. */
const SYSTEMD_NAME = "s3";

export interface CredentialPlaces {
  /** Where root publishes what `storage.credentials_file` names. */
  readonly published: string;
  /** systemd's $CREDENTIALS_DIRECTORY; null when it started us without one. */
  readonly systemd: string | null;
}

/** Throws a sentence when there are none, or when they are wrong. */
export function findCredentials({ published: path, systemd }: CredentialPlaces): Credentials {
  const found = readPublished(path);
  if (found?.fault != null) throw new AppError("invalid", found.fault);
  if (found?.text != null) return parseCredentials(found.text, found.file);
  const given = systemd === null ? null : readIfThere(join(systemd, SYSTEMD_NAME));
  if (given !== null) return parseCredentials(given, `the systemd credential "${SYSTEMD_NAME}"`);
  throw new AppError(
    "invalid",
    'Storage in a bucket takes credentials: set [storage] credentials_file, or give the unit a systemd credential "s3".',
  );
}

function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
    throw error;
  }
}

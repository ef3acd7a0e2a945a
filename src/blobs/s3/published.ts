import { z } from "zod";
import { readPublished } from "../../config/published.ts";
import { AppError } from "../../errors.ts";
import { parseCredentials, type Credentials } from "./credentials.ts";

/* api sees none of the operator's files: root reads the bucket's credentials and publishes them, for api alone. */

const published = z.union([
  z.strictObject({ file: z.string(), text: z.string() }),
  /** What is wrong with the file. */
  z.strictObject({ fault: z.string() }),
]);
export type PublishedCredentials = z.infer<typeof published>;

export interface CredentialPlaces {
  /** Where root publishes what `storage.credentials_file` names. */
  readonly published: string;
  /** What systemd gave us; null when it gave nothing of this name. */
  readonly systemd: () => Uint8Array | null;
}

/** Throws a sentence when there are none, or when they are wrong. */
export function findCredentials({ published: path, systemd }: CredentialPlaces): Credentials {
  const found = readPublished(path, published);
  if (found !== null && "fault" in found) throw new AppError("invalid", found.fault);
  if (found !== null) return parseCredentials(found.text, found.file);
  const given = systemd();
  if (given !== null) {
    return parseCredentials(new TextDecoder().decode(given), 'the systemd credential "s3"');
  }
  throw new AppError(
    "invalid",
    "A bucket takes credentials: set [storage] credentials_file, or give api's unit LoadCredential=s3:FILE.",
  );
}

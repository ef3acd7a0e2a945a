import { Decrypter, Encrypter } from "age-encryption";
import { AppError } from "../errors.ts";

/**
 * Who may open a backup besides the holder of the master key. In the format of age (age-encryption.org): its own tool
 * opens it too.
 */
export type Recipient =
  | { readonly passphrase: string }
  /** `age1…` */
  | { readonly recipient: string };

const LEAST_PASSPHRASE = 12;
/** As a power of two, what a guess of a passphrase costs (scrypt): a second of a core, and 256 MiB. */
const WORK = 18;

export async function sealFor(who: Recipient, secret: Uint8Array, work = WORK): Promise<Uint8Array> {
  const encrypter = new Encrypter();
  if ("passphrase" in who) {
    if (who.passphrase.length < LEAST_PASSPHRASE) {
      throw new AppError(
        "invalid",
        `The passphrase has ${who.passphrase.length} characters; whoever steals the backup may guess for years, so use ${LEAST_PASSPHRASE} at least.`,
      );
    }
    encrypter.setPassphrase(who.passphrase);
    encrypter.setScryptWorkFactor(work);
  } else {
    addRecipient(encrypter, who.recipient);
  }
  return encrypter.encrypt(secret);
}

function addRecipient(encrypter: Encrypter, recipient: string): void {
  try {
    encrypter.addRecipient(recipient);
  } catch (error) {
    throw new AppError(
      "invalid",
      `"${recipient}" is no recipient of age's, such as age-keygen prints: age1….`,
      {
        cause: error,
      },
    );
  }
}

export type Opener =
  | { readonly passphrase: string }
  /** The lines of an identity file: `AGE-SECRET-KEY-1…`, comments and empty ones. */
  | { readonly identities: string };

export async function openSealed(by: Opener, sealed: Uint8Array): Promise<Uint8Array> {
  checkKind(by, sealed);
  const decrypter = new Decrypter();
  if ("passphrase" in by) decrypter.addPassphrase(by.passphrase);
  else for (const identity of identitiesIn(by.identities)) addIdentity(decrypter, identity);
  try {
    return await decrypter.decrypt(sealed);
  } catch (error) {
    const what = "passphrase" in by ? "passphrase" : "identity";
    throw new AppError("forbidden", `This ${what} does not open the backup.`, { cause: error });
  }
}

/** The first line below the version of an age file says for whom it is. */
function checkKind(by: Opener, sealed: Uint8Array): void {
  const forPassphrase = /^[^\n]*\n-> scrypt /.test(Buffer.from(sealed.subarray(0, 200)).toString("latin1"));
  if (forPassphrase === "passphrase" in by) return;
  throw new AppError(
    "forbidden",
    forPassphrase
      ? "This backup is for whoever knows its passphrase, not for an identity: --passphrase-file FILE."
      : "This backup is for whoever has its recipient's identity, not for a passphrase: --identity-file FILE.",
  );
}

function identitiesIn(text: string): string[] {
  const lines = text.split("\n").map((line) => line.trim());
  const identities = lines.filter((line) => line !== "" && !line.startsWith("#"));
  if (identities.length === 0) throw new AppError("invalid", "The identity file holds no identity.");
  return identities;
}

function addIdentity(decrypter: Decrypter, identity: string): void {
  try {
    decrypter.addIdentity(identity);
  } catch (error) {
    throw new AppError(
      "invalid",
      "The identity file is none of age's: a line in it is no AGE-SECRET-KEY-1….",
      {
        cause: error,
      },
    );
  }
}

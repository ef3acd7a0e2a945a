import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { createSecureContext } from "node:tls";
import { AppError } from "../errors.ts";

/** A certificate with those that lead to its root, and its key, as PEM. */
export interface Pair {
  readonly cert: string;
  readonly key: string;
}

/** The paths of both. */
export type PairFiles = Pair;

const MAX_BYTES = 1024 * 1024;
/** Whoever renews them replaces one after the other. */
const TRIES = 4;
const PAUSE_MS = 300;

/** Both files, when they are a certificate and its key; else throws a sentence that names the file. */
export async function readPair(files: PairFiles): Promise<Pair> {
  for (let left = TRIES - 1; ; left--) {
    const pair = { cert: read("tls_cert", files.cert), key: read("tls_key", files.key) };
    const fault = faultOf(pair, files);
    if (fault === null) return pair;
    if (!fault.passing || left === 0) throw new AppError("invalid", fault.detail);
    await Bun.sleep(PAUSE_MS);
  }
}

function read(setting: keyof typeof FILES, path: string): string {
  const refuse = (why: string) => new AppError("invalid", `[http] ${setting} = "${path}": ${why}.`);
  try {
    const stat = statSync(path);
    if (!stat.isFile()) throw refuse("it is no file");
    if (stat.size > MAX_BYTES) throw refuse(`it is larger than ${MAX_BYTES} bytes`);
    return readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof AppError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw refuse(code === "ENOENT" ? "there is no such file" : `it cannot be read (${code})`);
  }
}

const FILES = { tls_cert: "cert", tls_key: "key" } as const;

interface Fault {
  readonly detail: string;
  /** Perhaps one of them is half written, or new while the other is about to be. */
  readonly passing: boolean;
}

function faultOf(pair: Pair, files: PairFiles): Fault | null {
  const fault = (setting: keyof typeof FILES, why: string, passing: boolean) => ({
    detail: `[http] ${setting} = "${files[FILES[setting]]}": ${why}.`,
    passing,
  });
  const certificate = attempt(() => new X509Certificate(pair.cert));
  if (certificate instanceof Error) {
    const swapped = pair.cert.includes("PRIVATE KEY-----")
      ? "; it holds a key, so the two may be swapped"
      : "";
    return fault("tls_cert", `it holds no PEM certificate${swapped}`, swapped === "");
  }
  const key = attempt(() => createPrivateKey(pair.key));
  if (key instanceof Error) {
    const locked = "code" in key && key.code === "ERR_MISSING_PASSPHRASE";
    const why = locked ? "a passphrase locks it; give a key without one" : "it holds no PEM private key";
    return fault("tls_key", why, !locked);
  }
  if (!certificate.checkPrivateKey(key)) {
    return fault("tls_key", `it is not the key of the certificate in ${files.cert}`, true);
  }
  const context = attempt(() => createSecureContext(pair));
  return context instanceof Error ? fault("tls_cert", `it cannot be used (${context.message})`, true) : null;
}

function attempt<T>(make: () => T): T | Error {
  try {
    return make();
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

import { readFileSync, rmSync } from "node:fs";
import { AppError } from "../errors.ts";
import type { Log } from "../log.ts";
import { publish } from "../instance/setup.ts";
import { readPair, type Pair, type PairFiles } from "./pair.ts";
import { readPublishedPair, type Published } from "./published.ts";

/** Publishes what `readPair` gave. As root; null takes away what there was. */
export function publishPair(path: string, given: { files: PairFiles; pair: Pair } | null): void {
  if (given === null) rmSync(path, { force: true });
  else write(path, { ...given, fault: null });
}

/** Looks at the files and publishes them. When they are bad, those before stay, with what is wrong, which is returned. */
export async function refreshPair(path: string, files: PairFiles): Promise<string | null> {
  try {
    write(path, { files, pair: await readPair(files), fault: null });
    return null;
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    write(path, { files, pair: readPublishedPair(path)?.pair ?? null, fault: error.message });
    return error.message;
  }
}

function write(path: string, content: Published): void {
  publish(path, JSON.stringify(content));
}

export interface FollowParts {
  readonly path: string;
  readonly log: Log;
  readonly everyMs?: number;
}

const EVERY_MS = 5_000;

/** Publishes the files anew whenever they change, so that a renewal needs no command. Returns how to stop that. */
export function followPair({ path, log, everyMs = EVERY_MS }: FollowParts): () => void {
  const look = async () => {
    const before = readPublishedPair(path);
    if (before === null || isCurrent(before)) return;
    const fault = await refreshPair(path, before.files);
    // api, which takes it from here, says that it did.
    if (fault === null || fault === before.fault) return;
    log.error("the certificate's files are wrong; those before stay published", { fault });
  };
  const state = { looking: false };
  const timer = setInterval(() => {
    if (state.looking) return;
    state.looking = true;
    look()
      .catch((error: unknown) => log.error("the certificate cannot be followed", { error }))
      .finally(() => (state.looking = false));
  }, everyMs);
  return () => clearInterval(timer);
}

function isCurrent({ files, pair, fault }: Published): boolean {
  try {
    return (
      fault === null &&
      pair?.cert === readFileSync(files.cert, "utf8") &&
      pair.key === readFileSync(files.key, "utf8")
    );
  } catch {
    return false;
  }
}

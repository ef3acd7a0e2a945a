import type { Log } from "../../log.ts";
import { reasonOf } from "./reason.ts";
import { createRecent } from "./recent.ts";

/** What has to work for calls to be answered well. */
export interface ReadyCheck {
  readonly name: string;
  /** Throws when it does not. */
  readonly look: () => Promise<unknown>;
}

export interface Reason {
  readonly name: string;
  readonly detail: string;
}

export interface ReadinessParts {
  readonly checks: readonly ReadyCheck[];
  readonly log: Log;
  readonly maxAgeMs?: number;
  readonly patienceMs?: number;
}

/** Anybody may ask, and so nobody can load the host by asking. */
const MAX_AGE_MS = 1000;
const PATIENCE_MS = 2000;

export type Readiness = ReturnType<typeof createReadiness>;

/** Why the appliance is not ready; empty when it is. Answers within a bounded time. */
export function createReadiness(parts: ReadinessParts): () => Promise<readonly Reason[]> {
  const { checks, log, maxAgeMs = MAX_AGE_MS, patienceMs = PATIENCE_MS } = parts;
  let known = "";

  async function look(): Promise<readonly Reason[]> {
    const found = await Promise.all(
      checks.map(async (check) => ({ check, detail: await faultOf(check, patienceMs) })),
    );
    const reasons = found.flatMap(({ check: { name }, detail }) =>
      detail === null ? [] : [{ name, detail }],
    );
    const names = reasons.map(({ name }) => name).join(" ");
    if (names !== known) {
      if (names === "") log.info("is ready again");
      else log.warn("is not ready", { reasons });
      known = names;
    }
    return reasons;
  }

  return createRecent(look, maxAgeMs);
}

async function faultOf({ look }: ReadyCheck, patienceMs: number): Promise<string | null> {
  const late = Promise.withResolvers<string>();
  const timer = setTimeout(() => late.resolve(`it did not answer within ${patienceMs / 1000} s`), patienceMs);
  try {
    return await Promise.race([look().then(() => null), late.promise]);
  } catch (error) {
    return reasonOf(error);
  } finally {
    clearTimeout(timer);
  }
}

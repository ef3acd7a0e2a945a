import type { WebhookId, WorkspaceId } from "../ids.ts";
import type { Outcome } from "./attempt.ts";
import { createPace } from "./pace.ts";

/** A webhook as its sender needs it. */
export interface Target {
  readonly id: WebhookId;
  readonly workspaceId: WorkspaceId;
  readonly url: string;
  readonly secret: string;
  /** Signs too until then. */
  readonly previous: { readonly secret: string; readonly until: number } | null;
  readonly failingSince: number | null;
  readonly lastDeliveryAt: number | null;
}

const DAY_MS = 24 * 60 * 60_000;
/** An endpoint that failed for so long without a success in between is sent nothing more. */
const GIVE_UP_AFTER_MS = 5 * DAY_MS;
/** Longer than any pause between two attempts. Failures further apart are not one failure that lasted. */
const UNBROKEN_MS = 1.5 * DAY_MS;

export type Endpoint = ReturnType<typeof createEndpoint>;

/** An enabled webhook: how fast it is sent to, what is under way to it, and for how long it has failed. */
export function createEndpoint(target: Target, dueAt: number, random: () => number) {
  const state = {
    target,
    /** When something is due next. */
    dueAt,
    failingSince: target.failingSince,
    lastAt: target.lastDeliveryAt,
    /** Which secret signs last, while there are two. */
    newestLast: false,
  };
  return {
    state,
    pace: createPace(random),
    inFlight: new Set<AbortController>(),

    /**
     * The SDK's verifier reads the last signature alone. Right after a rotation that is the previous secret's, which
     * receivers still have; one that refuses it is sent the newest's from then on.
     */
    secrets(now: number): readonly string[] {
      const { secret, previous } = state.target;
      if (previous === null || previous.until <= now) return [secret];
      return state.newestLast ? [previous.secret, secret] : [secret, previous.secret];
    },

    /** After each attempt, signed with `secrets`. Returns whether to give the endpoint up. */
    learn(outcome: Outcome, secrets: readonly string[], now: number): boolean {
      if (secrets.length === 2) {
        const newestWasLast = secrets[1] === state.target.secret;
        if (outcome.ok) state.newestLast = newestWasLast;
        else if (REFUSALS.has(outcome.status)) state.newestLast = !newestWasLast;
      }
      const unbroken = state.lastAt !== null && now - state.lastAt < UNBROKEN_MS;
      state.lastAt = now;
      if (outcome.ok) state.failingSince = null;
      else if (state.failingSince === null || !unbroken) state.failingSince = now;
      return state.failingSince !== null && now - state.failingSince >= GIVE_UP_AFTER_MS;
    },
  };
}

/** What receivers answer to a signature that they don't accept. */
const REFUSALS: ReadonlySet<number | null> = new Set([400, 401, 403, 422]);

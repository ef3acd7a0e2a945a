import { AppError } from "../errors.ts";
import type { KeyId, NamespaceId } from "../ids.ts";

/** A call under way in a namespace. */
export interface Lease<Id extends NamespaceId | null = NamespaceId> {
  readonly id: Id;
  /** Aborted when the client hangs up, the key is revoked or the namespace is deleted. */
  readonly signal: AbortSignal;
  /** The same but for a client that hangs up: for work that is worth its end to whoever looks later. */
  readonly ended: AbortSignal;
  /** For an answer that streams on after the handler returned: the call lasts until `done` settles. */
  extend(done: Promise<unknown>): void;
}

interface Call {
  readonly keyId: KeyId | null;
  readonly namespaceId: NamespaceId | null;
  /** Aborted by a hang-up too. */
  readonly controller: AbortController;
  readonly ending: AbortController;
}

export type Calls = ReturnType<typeof createCalls>;

/** The calls in flight, so that revoking a key or deleting a namespace ends those that it concerns at once. */
export function createCalls() {
  const live = new Set<Call>();
  const waiters = new Set<() => void>();

  function end(call: Call): void {
    live.delete(call);
    for (const wake of waiters) wake();
  }

  function abort(concerns: (call: Call) => boolean, reason: AppError): void {
    for (const call of live) {
      if (!concerns(call)) continue;
      call.ending.abort(reason);
      call.controller.abort(reason);
    }
  }

  return {
    async run<Id extends NamespaceId | null, T>(
      call: { readonly keyId: KeyId | null; readonly namespaceId: Id; readonly hangUp: AbortSignal },
      use: (lease: Lease<Id>) => Promise<T>,
    ): Promise<T> {
      const [controller, ending] = [new AbortController(), new AbortController()];
      const entry: Call = { keyId: call.keyId, namespaceId: call.namespaceId, controller, ending };
      const extensions: Promise<unknown>[] = [];
      const hangUp = () => controller.abort(new AppError("bad_input", "The client hung up."));
      if (call.hangUp.aborted) hangUp();
      else call.hangUp.addEventListener("abort", hangUp, { once: true });
      const finish = () => {
        call.hangUp.removeEventListener("abort", hangUp);
        end(entry);
      };
      live.add(entry);
      try {
        return await use({
          id: call.namespaceId,
          signal: controller.signal,
          ended: ending.signal,
          extend: (done) => void extensions.push(done),
        });
      } catch (error) {
        // What the work made of the abort matters less than why it was aborted.
        throw controller.signal.aborted ? controller.signal.reason : error;
      } finally {
        if (extensions.length === 0) finish();
        else void Promise.allSettled(extensions).then(finish);
      }
    },

    endOfKey(keyId: KeyId, reason: AppError): void {
      abort((call) => call.keyId === keyId, reason);
    },

    /** Aborts what runs in the namespace and returns when the last of it has ended, or after `patienceMs`. */
    async endOfNamespace(id: NamespaceId, reason: AppError, patienceMs: number): Promise<void> {
      const busy = () => live.values().some((call) => call.namespaceId === id);
      abort((call) => call.namespaceId === id, reason);
      if (!busy()) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      const wake = () => void (busy() || resolve());
      const timer = setTimeout(resolve, patienceMs);
      waiters.add(wake);
      await promise;
      waiters.delete(wake);
      clearTimeout(timer);
    },
  };
}

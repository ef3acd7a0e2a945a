import type { RunId } from "../../ids.ts";
import { Refused } from "./refusal.ts";

const MIB = 1024 * 1024;
const ALL_BYTES = 256 * MIB;
const RUN_BYTES = 96 * MIB;
const BODY_BYTES = 32 * MIB;

/** What requests' bodies take of the gateway's memory: of all runs together, and of each. */
export function createRoom({ all = ALL_BYTES, ofRun = RUN_BYTES } = {}) {
  const taken = new Map<RunId, number>();
  let total = 0;

  function add(run: RunId, bytes: number): void {
    total += bytes;
    const now = (taken.get(run) ?? 0) + bytes;
    if (now === 0) taken.delete(run);
    else taken.set(run, now);
  }

  return {
    /** The whole body, and how to give its room back. Throws a Refused. */
    async read(request: Request, run: RunId): Promise<{ bytes: Uint8Array; [Symbol.dispose](): void }> {
      const chunks: Uint8Array[] = [];
      let size = 0;
      const release = () => {
        add(run, -size);
        size = 0;
      };
      try {
        for await (const chunk of request.body ?? []) {
          if (size + chunk.length > BODY_BYTES) {
            throw new Refused("too_large", `A request may have ${BODY_BYTES / MIB} MiB.`);
          }
          if (total + chunk.length > all || (taken.get(run) ?? 0) + chunk.length > ofRun) {
            throw new Refused("rate", "Too many large requests are under way.", { retryAfterS: 1 });
          }
          add(run, chunk.length);
          size += chunk.length;
          chunks.push(chunk);
        }
      } catch (error) {
        release();
        throw error;
      }
      const [only] = chunks;
      return {
        bytes: chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks),
        [Symbol.dispose]: release,
      };
    },
    get bytes() {
      return total;
    },
  };
}

import { createPacketReader, UnframedError } from "./packets.ts";

/**
 * Whether an answer of git-upload-pack brings a pack: a fetch is several requests, and only the last one does. Looks at
 * what comes before the pack, and no further.
 */
export function createPackWatch(): { add(chunk: Uint8Array): void; readonly found: () => boolean } {
  const packets = createPacketReader();
  const state = { found: false, over: false };

  function look(): void {
    for (let next = packets.next(); next !== null; next = packets.next()) {
      if (next.kind !== "data") continue;
      // Version 2 says so; before it, a pack stands in band 1.
      const text = next.payload.toString("latin1", 0, 10);
      if (text === "packfile\n" || text.startsWith("\u0001PACK")) {
        state.found = true;
        state.over = true;
        return;
      }
    }
  }

  return {
    add(chunk) {
      if (state.over) return;
      packets.add(chunk);
      try {
        look();
      } catch (error) {
        if (!(error instanceof UnframedError)) throw error;
        // A client without bands gets the pack as it is.
        state.found = packets.rest().toString("latin1", 0, 4) === "PACK";
        state.over = true;
      }
    },
    found: () => state.found,
  };
}

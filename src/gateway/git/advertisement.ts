import { createPacketReader, packet } from "./packets.ts";
import { isKnownCapability } from "./push.ts";

/**
 * What a server says before a push, less the capabilities that no push through here may ask for: git asks for none that is
 * not offered, so that one which signs its pushes, say, does without. What can't be read passes as it is.
 */
export function lessCapabilities(): TransformStream<Uint8Array, Uint8Array> {
  const packets = createPacketReader();
  const state = { passing: false };
  return new TransformStream({
    transform(chunk, controller) {
      if (state.passing) {
        controller.enqueue(chunk);
        return;
      }
      packets.add(chunk);
      try {
        for (let next = packets.next(); next !== null; next = packets.next()) {
          const at = next.kind === "data" ? next.payload.indexOf(0) : -1;
          if (next.kind !== "data" || at === -1) {
            controller.enqueue(next.bytes);
            continue;
          }
          const offered = next.payload
            .toString("latin1", at + 1)
            .trim()
            .split(" ");
          const kept = offered.filter(isKnownCapability).join(" ");
          controller.enqueue(packet(next.payload.subarray(0, at + 1), `${kept}\n`));
          state.passing = true;
          break;
        }
      } catch {
        state.passing = true;
      }
      if (state.passing) controller.enqueue(packets.rest());
    },
    flush(controller) {
      if (!state.passing) controller.enqueue(packets.rest());
    },
  });
}

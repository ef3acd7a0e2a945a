import { z } from "zod";
import type { Appliance } from "./appliance.ts";
import { messagesOf, type MessagesOptions } from "./messages.ts";
import { runPath } from "./run-row.ts";
import { terminal } from "./terminal.ts";

interface Piece {
  readonly stream: "stdout" | "stderr";
  readonly bytes: Uint8Array;
}

const entry = z.object({
  at: z.string(),
  text: z.string(),
  text_base64: z.string().optional(),
  dropped_bytes: z.int().optional(),
});

/** What a run has written, byte for byte, also over restarts of the appliance; with `live` until the run is over. */
export async function* outputOf(
  appliance: Appliance,
  id: string,
  options: Pick<MessagesOptions, "live" | "reached">,
): AsyncGenerator<Piece, void> {
  const began = Date.now();
  const path = `${runPath(id)}/logs${options.live === true ? "?follow=true" : ""}`;
  // Who says what he had last is told when he has all.
  for await (const { event, data } of messagesOf(appliance, path, { ...options, last: "0" })) {
    const { at, text, text_base64, dropped_bytes } = entry.parse(JSON.parse(data));
    if (options.live !== true && Date.parse(at) > began) return;
    if (event === "stdout" || event === "stderr") {
      const bytes =
        text_base64 === undefined ? new TextEncoder().encode(text) : Uint8Array.fromBase64(text_base64);
      yield { stream: event, bytes };
    } else if (dropped_bytes !== undefined) terminal.info(text);
  }
}

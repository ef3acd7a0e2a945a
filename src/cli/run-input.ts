import { defineCommand } from "citty";
import { z } from "zod";
import { connect, Refusal, type Appliance } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { idArgument, runPath } from "./run-row.ts";
import { strict } from "./strict.ts";
import { terminal } from "./terminal.ts";

/** What the api takes in one call. */
const MAX_BYTES = 1024 * 1024;
const AGAIN_MS = 500;

export const input = defineCommand({
  meta: {
    name: "input",
    description: "Give a run that was started with stdin_open what is on this command's standard input",
  },
  plugins: [strict],
  args: {
    ...idArgument,
    eof: { type: "boolean", description: "And then the end: it gets no more" },
    ...dataArgument,
  },
  async run({ args }) {
    const appliance = connect(args.data);
    let isAsked = false;
    for await (const piece of Bun.stdin.stream()) {
      for (let at = 0; at < piece.length; at += MAX_BYTES) {
        await feed(appliance, `${runPath(args.run)}/stdin`, piece.subarray(at, at + MAX_BYTES));
        isAsked = true;
      }
    }
    const nothing = new Uint8Array();
    if (args.eof === true) await feed(appliance, `${runPath(args.run)}/stdin?eof=true`, nothing);
    // Whether there is such a run is told also when there was nothing to give it.
    else if (!isAsked) await feed(appliance, `${runPath(args.run)}/stdin`, nothing);
  },
});

/** How much of a call a run has taken that reads slowly; one that has not begun takes nothing. */
const taken = z.object({ written: z.int().nonnegative() }).catch({ written: 0 });

async function feed(appliance: Appliance, path: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
  let rest = bytes;
  let isTold = false;
  for (;;) {
    try {
      await appliance.call(path, { method: "POST", body: new Blob([rest]) });
      return;
    } catch (error) {
      if (!(error instanceof Refusal) || error.code !== "unavailable") throw error;
      rest = rest.subarray(taken.parse(error.answer).written);
      if (!isTold) terminal.info("the run takes nothing just now; this waits until it does.");
      isTold = true;
      await Bun.sleep(AGAIN_MS);
    }
  }
}

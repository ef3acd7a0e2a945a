import { test } from "bun:test";
import { killAtRandom } from "../long/kill-loop.ts";

// The long suite has two hundred.
test("kills of api below a mixed load: nothing acknowledged is lost, and each change has one event", async () => {
  await killAtRandom(8);
}, 300_000);

import { test } from "bun:test";
import { killAtRandom } from "../long/kill-loop.ts";

// The long suite has two hundred.
test("a dozen kills of api below a mixed load: nothing acknowledged is lost, and each change has one event", async () => {
  await killAtRandom(12);
}, 300_000);

import { test } from "bun:test";
import { amount } from "../fixtures/amount.ts";
import { killAtRandom } from "./kill-loop.ts";

const KILLS = amount("KILLS", 200);

test(
  `${KILLS} kills of api at random moments: nothing acknowledged is lost, no answer is wrong, each change has one event`,
  async () => killAtRandom(KILLS),
  (60 + KILLS * 20) * 1000,
);

import { expect, test } from "bun:test";
import { join } from "node:path";
import { runId } from "../../../src/ids.ts";
import { createPlaces } from "../../../src/runs/output/place.ts";
import { amount } from "../../fixtures/amount.ts";
import { seededRandom } from "../../fixtures/random.ts";
import { bytesOf, entriesOf, instanceIn, startRunOutput, writers } from "../../fixtures/run-output.ts";
import { outputOf } from "../../fixtures/run-writer.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const KILLS = process.env["COFFERDAM_TEST_LONG"] === undefined ? 15 : amount("OUTPUT_KILLS", 200);
const MIB = 1024 * 1024;
/** What is written before each kill, and after the last. */
const SHARE_BYTES = 0.5 * MIB;
const OUT_BYTES = (KILLS + 1) * 0.4 * MIB;
const ERR_BYTES = (KILLS + 1) * 0.1 * MIB;
/** Its segments are an eighth of that: some are begun, and none has to go. */
const MAX_BYTES = (KILLS + 1) * MIB;
const SEED = Number(process.env["SEED"] ?? Math.floor(Math.random() * 2 ** 31));

test(`whoever is killed ${KILLS} times while it stores a run's output loses and doubles no byte (SEED=${SEED})`, async () => {
  const random = seededRandom(SEED);
  using scratch = scratchDirectory();
  const instance = instanceIn(scratch.path);
  const run = runId.make();
  createPlaces(instance).makeFifos(run);
  const pipes = join(instance.sockets.runs, run);
  // As the shim does: what nobody has read stays.
  const held = writers(pipes);
  const fixture = (name: string) => join(import.meta.dir, "../../fixtures", name);
  const writer = Bun.spawn(
    [
      process.execPath,
      fixture("run-writer-process.ts"),
      ...[pipes, SEED, OUT_BYTES, ERR_BYTES, SHARE_BYTES].map(String),
    ],
    { stdin: "pipe" },
  );
  for (let kills = 0; kills < KILLS; kills++) {
    const child = Bun.spawn(
      [process.execPath, fixture("run-output-process.ts"), scratch.path, run, String(MAX_BYTES)],
      {
        stdout: "pipe",
      },
    );
    await child.stdout.getReader().read();
    await writer.stdin.write(".");
    await writer.stdin.flush();
    await Bun.sleep(random.int(25));
    child.kill("SIGKILL");
    await child.exited;
  }
  // Else the last of them interrupted nothing.
  expect(writer.exitCode).toBeNull();
  await writer.stdin.end();
  using started = startRunOutput(scratch.path, { maxBytes: () => MAX_BYTES });
  started.output.attach(run);
  expect(await writer.exited).toBe(0);
  held.end();
  await started.output.drained(run);
  const never = new AbortController().signal;
  const steps = await Array.fromAsync(
    started.output.follow(run, { after: 0, live: false }, () => true, never),
  );
  const entries = entriesOf(steps);
  expect(entries.map(({ seq }) => seq)).toEqual(entries.map((_, index) => index + 1));
  expect(bytesOf(entries, "stdout").equals(outputOf(OUT_BYTES))).toBe(true);
  expect(bytesOf(entries, "stderr").equals(outputOf(ERR_BYTES))).toBe(true);
  // Also where the killed one had stored a part without having said so.
  const strict = new TextDecoder("utf-8", { fatal: true });
  const whole = entries.filter(({ stream }, index) =>
    entries.slice(index + 1).some((later) => later.stream === stream),
  );
  expect(() => whole.forEach(({ bytes }) => strict.decode(bytes))).not.toThrow();
});

import { expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bytesOf, entriesOf, startRunOutput } from "../../fixtures/run-output.ts";
import { outputOf } from "../../fixtures/run-writer.ts";
import { smallDisk } from "../../fixtures/small-disk.ts";
import { until } from "../../fixtures/until.ts";

const MIB = 1024 * 1024;
const never = new AbortController().signal;

/** Takes all of the disk but so much. */
function fill(disk: ReturnType<typeof smallDisk>, leave: number): () => void {
  const path = join(disk.path, "filler");
  writeFileSync(path, Buffer.alloc(Math.max(0, disk.freeBytes() - leave)));
  return () => rmSync(path);
}

test("on a full disk a run waits until there is room, and nothing of its output is lost", async () => {
  const disk = smallDisk(24);
  const dir = join(disk.path, "data");
  mkdirSync(dir);
  {
    using started = startRunOutput(dir, { maxBytes: () => 1024 * MIB });
    const { output, logged } = started;
    const { run, out, end, waiting } = started.begin();
    const whole = outputOf(3 * MIB);
    const free = fill(disk, 1 * MIB);
    let at = 0;
    const write = (): void => {
      while (at < whole.length && waiting() < 400_000) {
        out(whole.subarray(at, at + 50_000));
        at += 50_000;
      }
    };
    await until(() => {
      write();
      return logged.some((line) => line.includes("cannot be stored"));
    });
    // What could not be stored waits in the pipe.
    expect(waiting()).toBeGreaterThan(0);
    expect(logged.length).toBe(1);
    free();
    await until(() => {
      write();
      return at >= whole.length && waiting() === 0;
    });
    end();
    await output.drained(run);
    const steps = await Array.fromAsync(output.follow(run, { after: 0, live: false }, () => true, never));
    expect(bytesOf(entriesOf(steps)).equals(whole)).toBe(true);
  }
  disk.remove();
});

test("a run that has older output gives that up before it waits", async () => {
  const disk = smallDisk(24);
  const dir = join(disk.path, "data");
  mkdirSync(dir);
  {
    using started = startRunOutput(dir, { maxBytes: () => 8 * MIB });
    const { output } = started;
    const { run, out, end, waiting } = started.begin();
    const whole = outputOf(12 * MIB);
    let free = (): void => {};
    for (let at = 0; at < whole.length; at += 50_000) {
      if (at === 4_000_000) free = fill(disk, 300_000);
      await until(() => waiting() < 300_000);
      out(whole.subarray(at, at + 50_000));
    }
    end();
    await output.drained(run);
    const steps = await Array.fromAsync(output.follow(run, { after: 0, live: false }, () => true, never));
    const kept = bytesOf(entriesOf(steps));
    expect(kept.length).toBeGreaterThan(2 * MIB);
    expect(kept.length).toBeLessThan(6 * MIB);
    expect(whole.subarray(-kept.length).equals(kept)).toBe(true);
    expect(steps[0]).toMatchObject({ kind: "gap", bytes: whole.length - kept.length });
    free();
  }
  disk.remove();
});

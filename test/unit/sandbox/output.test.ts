import { describe, expect, test } from "bun:test";
import { Output } from "../../../src/sandbox/output.ts";
import { seededRandom } from "../../fixtures/random.ts";

describe("Output", () => {
  test("gives back what was added, in order, whatever the pieces' sizes", () => {
    for (let seed = 1; seed <= 200; seed += 1) {
      const random = seededRandom(seed);
      const output = new Output();
      const pieces = Array.from({ length: random.int(40) }, () =>
        random.bytes(1 + random.int(random.int(6) === 0 ? 9000 : 50)),
      );
      for (const piece of pieces) output.add(piece);
      const all = Buffer.concat(pieces);
      expect(output.bytes).toBe(all.length);
      expect(all.equals(output.take())).toBe(true);
    }
  });

  test("does not keep a chunk alive for a small piece of it", () => {
    const chunk = new Uint8Array(512 * 1024);
    const output = new Output();
    output.add(chunk.subarray(0, 10));
    output.add(chunk.subarray(100, 100 + 8192));
    expect(output.take().buffer).not.toBe(chunk.buffer);
    expect(output.take().buffer.byteLength).toBeLessThan(64 * 1024);
  });

  test("keeps a piece that is most of its chunk without a copy", () => {
    const chunk = new Uint8Array(64 * 1024);
    const output = new Output();
    output.add(chunk.subarray(12));
    expect(output.take().buffer).toBe(chunk.buffer);
  });

  test("holds a million single bytes in little more than their size", () => {
    const output = new Output();
    Bun.gc(true);
    const before = process.memoryUsage.rss();
    for (let i = 0; i < 1_000_000; i += 1) output.add(Uint8Array.of(i & 255));
    Bun.gc(true);
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 * 1024 * 1024);
    expect(output.bytes).toBe(1_000_000);
  });
});

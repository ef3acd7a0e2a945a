import { expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { searchMemory } from "../../../src/prove/memory.ts";
import { until } from "../../fixtures/until.ts";

const word = () => randomBytes(20).toString("hex");

/** Holds the halves of a text as one, in memory of its own or in a file in memory with a large hole before it. */
const HOLDER = `
import mmap, os, sys
one, other, kind = sys.argv[1:4]
text = (one + other).encode()
if kind == "private":
    held = bytearray(b"x" * 5_000_001) + text
else:
    fd = os.memfd_create("held")
    os.truncate(fd, 1 << 32)
    held = mmap.mmap(fd, 1 << 32)
    held[(1 << 31) - 7 : (1 << 31) - 7 + len(text)] = text
print("holds", flush=True)
sys.stdin.read()
`;

async function holder(text: string, kind: "private" | "shared") {
  const half = text.length / 2;
  const child = Bun.spawn(["python3", "-c", HOLDER, text.slice(0, half), text.slice(half), kind], {
    stdin: "pipe",
    stdout: "pipe",
  });
  const reader = child.stdout.getReader();
  await until(async () => new TextDecoder().decode((await reader.read()).value).includes("holds"));
  return child;
}

const shared = (pid: number) => /^RssShmem:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];

test.each(["private", "shared"] as const)("a text in %s memory is found, and no other", async (kind) => {
  const [text, absent] = [word(), word()];
  const child = await holder(text, kind);
  try {
    const before = shared(child.pid);
    const { found, bytes } = searchMemory([child.pid], [text, absent]);
    expect([Number(found[0]) > 0, found[1]]).toEqual([true, 0]);
    expect(bytes).toBeGreaterThan(1_000_000);
    // Four GiB of nothing were neither read nor made.
    expect(bytes).toBeLessThan(500_000_000);
    expect(shared(child.pid)).toBe(before);
  } finally {
    child.kill();
    await child.exited;
  }
});

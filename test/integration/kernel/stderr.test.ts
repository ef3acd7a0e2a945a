import { afterEach, describe, expect, test } from "bun:test";
import { closeSync, constants, mkdtempSync, openSync, readFileSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NR, syscall } from "../../../src/kernel/libc.ts";
import { createLineWriter, descriptor } from "../../../src/kernel/stderr.ts";
import { socketPair } from "../../../src/kernel/unixsocket.ts";

const open = new Set<number>();
const dirs: string[] = [];
afterEach(() => {
  for (const fd of open) closeSync(fd);
  open.clear();
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true });
});

/** A pipe: its reading end never waits, its writing end does, as those that a process is started with. */
function pipe(): { reader: number; writer: number } {
  const dir = mkdtempSync(join(tmpdir(), "cofferdam-stderr-"));
  dirs.push(dir);
  const path = join(dir, "fifo");
  Bun.spawnSync(["mkfifo", path]);
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(path, constants.O_WRONLY);
  open.add(reader).add(writer);
  return { reader, writer };
}

/** A pair of stream sockets, as the journal's. */
function sockets(): { reader: number; writer: number } {
  const [reader, writer] = socketPair();
  syscall("ioctl FIONBIO", NR.ioctl, reader, 0x5421, new Int32Array([1]));
  open.add(reader).add(writer);
  return { reader, writer };
}

function take(fd: number, bytes = 1 << 20): string {
  const buffer = Buffer.alloc(bytes);
  return buffer.toString("utf8", 0, readSync(fd, buffer, 0, bytes, null));
}

/** All that was written, in order and whole, until the last line is `end`. */
async function readUntil(fd: number, end: string): Promise<string[]> {
  let text = "";
  while (!text.endsWith(`${end}\n`)) {
    try {
      text += take(fd);
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "EAGAIN")) throw error;
    }
    await Bun.sleep(1);
  }
  return text.trimEnd().split("\n");
}

const gap = (lost: number) => `${lost} lost\n`;
const line = (n: number) => `${n} ${"x".repeat(90)}\n`;

describe.each([
  ["pipe", pipe],
  ["socket", sockets],
])("a %s that nobody reads", (_name, make) => {
  test("holds up who writes to it as usual", async () => {
    const { writer } = make();
    const command = ["timeout", "1", "head", "--bytes=1000000", "/dev/zero"];
    const child = Bun.spawn(command, { stdin: "ignore", stdout: writer, stderr: "ignore" });
    expect(await child.exited).toBe(124);
  });

  test("holds nobody up; what does not fit is lost, counted, and told of to whoever reads again", async () => {
    const { reader, writer } = make();
    const lines = createLineWriter({ sink: descriptor(writer), gap, capacity: 100_000 });
    for (let n = 0; n < 20_000; n += 1) lines.write(line(n), n % 10 === 0);
    const lost = lines.lost();
    expect(lost).toBeGreaterThan(10_000);

    const all = readUntil(reader, "the end");
    let told = false;
    // It fits once there is room again.
    while (!told) {
      await Bun.sleep(1);
      const before = lines.lost();
      lines.write("the end\n", true);
      told = lines.lost() === before;
    }
    const got = await all;
    const gaps = got.filter((text) => text.endsWith(" lost")).map((text) => Number(text.split(" ")[0]));
    expect(gaps.reduce((sum, n) => sum + n, 0)).toBe(lines.lost());
    const numbers = got.filter((text) => text.includes("x")).map((text) => Number(text.split(" ")[0]));
    expect(numbers).toEqual(Array.from({ length: 20_000 - lost }, (_, n) => n));
  });
});

test("what is written is whole and in order, urgent or not", async () => {
  const { reader, writer } = pipe();
  const lines = createLineWriter({ sink: descriptor(writer), gap });
  lines.write("one\n", false);
  lines.write("two\nthree\n", true);
  expect(take(reader)).toBe("one\ntwo\nthree\n");
  lines.write("four\n", false);
  expect(await readUntil(reader, "four")).toEqual(["four"]);
  expect(lines.lost()).toBe(0);
});

test("a reader that is gone costs the lines, and no more", () => {
  const { reader, writer } = pipe();
  const lines = createLineWriter({ sink: descriptor(writer), gap });
  closeSync(reader);
  open.delete(reader);
  lines.write("into nothing\n", true);
  expect(lines.lost()).toBe(1);
  closeSync(writer);
  open.delete(writer);
  lines.write("into less\n", true);
  expect(lines.lost()).toBe(2);
});

test("a file takes all at once", () => {
  const dir = mkdtempSync(join(tmpdir(), "cofferdam-stderr-"));
  dirs.push(dir);
  const fd = openSync(join(dir, "log"), "a");
  open.add(fd);
  const lines = createLineWriter({ sink: descriptor(fd), gap });
  const texts = Array.from({ length: 1000 }, (_, n) => line(n));
  for (const text of texts) lines.write(text, false);
  lines.flush();
  expect(readFileSync(join(dir, "log"), "utf8")).toBe(texts.join(""));
});

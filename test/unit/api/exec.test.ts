import { describe, expect, test } from "bun:test";
import { jsonAnswer, textAnswer } from "../../../src/api/exec.ts";
import { createOutgoing } from "../../../src/api/http/outgoing.ts";
import type { ExecResult } from "../../../src/sandbox/exec.ts";
import { seededRandom } from "../../fixtures/random.ts";

function result(over: Partial<ExecResult> = {}): ExecResult {
  return {
    exitCode: 0,
    stdout: new Uint8Array(0),
    stderr: new Uint8Array(0),
    stdoutTruncated: false,
    stderrTruncated: false,
    durationMs: 7,
    oom: false,
    ...over,
  };
}

const outgoing = createOutgoing(64 * 1024 * 1024).of("somebody");
const utf8 = new TextEncoder();
const stdoutOf = async (over: Partial<ExecResult>) => {
  const answer = (await jsonAnswer(result(over), outgoing).json()) as { stdout: string };
  return answer.stdout;
};

describe("the JSON answer", () => {
  test("has exactly these fields", async () => {
    const stdout = utf8.encode('a "quoted"\n\u0000line');
    const answer = await jsonAnswer(
      result({ exitCode: 3, stdout, stderr: utf8.encode("é") }),
      outgoing,
    ).json();
    expect(answer).toEqual({
      exit_code: 3,
      stdout: 'a "quoted"\n\u0000line',
      stderr: "é",
      duration_ms: 7,
      stdout_truncated: false,
      stderr_truncated: false,
      oom: false,
    });
  });

  test("has a replacement character for what is not UTF-8, and keeps a byte order mark", async () => {
    expect(await stdoutOf({ stdout: Uint8Array.of(0xef, 0xbb, 0xbf, 97, 255, 98, 0xe2, 0x82) })).toBe(
      "\ufeffa\ufffdb\ufffd",
    );
  });

  test.each([
    ["é", 1],
    ["€", 1],
    ["€", 2],
    ["😀", 1],
    ["😀", 3],
  ])("leaves out a last character (%s) that truncation cut after %d bytes", async (character, kept) => {
    const bytes = utf8.encode(character).subarray(0, kept);
    const stdout = Buffer.concat([utf8.encode("ab"), bytes]);
    expect(await stdoutOf({ stdout, stdoutTruncated: true })).toBe("ab");
    expect(await stdoutOf({ stdout, stdoutTruncated: false })).toBe("ab\ufffd");
  });

  test("a long one is streamed, and reads the same wherever its pieces are cut", async () => {
    for (let seed = 1; seed <= 4; seed += 1) {
      const random = seededRandom(seed);
      const words = ["x", "é", "€", "😀", '"', "\\", "\u0000", "\u2028", "\n"];
      const parts = Array.from({ length: 150_000 }, () => words[random.int(words.length)]!);
      const whole = parts.join("");
      const stdout = utf8.encode(whole);
      expect(stdout.length).toBeGreaterThan(256 * 1024);
      const response = jsonAnswer(result({ stdout, stderr: stdout }), outgoing);
      const { stdout: out, stderr } = (await response.json()) as { stdout: string; stderr: string };
      expect([out === whole, stderr === whole]).toEqual([true, true]);
    }
  });

  test("a long one of any bytes reads as the decoder says", async () => {
    const stdout = seededRandom(9).bytes(300_000);
    const expected = new TextDecoder("utf-8", { ignoreBOM: true }).decode(stdout);
    expect((await stdoutOf({ stdout })) === expected).toBe(true);
  });
});

describe("the text answer", () => {
  test("is stdout alone when all went well", async () => {
    const response = textAnswer(
      result({ stdout: utf8.encode("hi\n"), stderr: utf8.encode("warning") }),
      outgoing,
    );
    expect(response.headers.get("content-type")).toBe("text/plain; charset=utf-8");
    expect(await response.text()).toBe("hi\n");
  });

  test("names the exit code, then stderr, then stdout when it did not", async () => {
    const failed = result({ exitCode: 2, stdout: utf8.encode("hi\n"), stderr: utf8.encode("oops\n") });
    expect(await textAnswer(failed, outgoing).text()).toBe("[exit 2]\noops\nhi\n");
  });
});

import { expect, test } from "bun:test";
import { matches, shell, steps } from "../fixtures/transcript.ts";

const TEXT =
  "# Title\n```console\n$ echo a\na\n$ cat <<X\n> b\n> X\nb\n```\n```sh\n$ not run\n```\n```console systemd\n$ elsewhere\n```\n";

test("commands and outputs are found by the block's info string", () => {
  expect(steps("f.md", TEXT, "console")).toEqual([
    { file: "f.md", line: 3, command: "echo a", output: "a" },
    { file: "f.md", line: 5, command: "cat <<X\nb\nX", output: "b" },
  ]);
  expect(steps("f.md", TEXT, "console systemd").map((step) => step.command)).toEqual(["elsewhere"]);
});

test("an ellipsis stands for what differs from run to run, and nothing else does", () => {
  expect(matches("id …", "id 7f")).toBe(true);
  expect(matches("a\n…\nb", "a\n1\n2\nb")).toBe(true);
  expect(matches("a (x)", "a (x)\n")).toBe(true);
  expect(matches("a", "b")).toBe(false);
  expect(matches("a\nb", "a\nx\nb")).toBe(false);
  expect(matches("a", "a\nmore")).toBe(false);
});

test("a shell keeps its state and reports codes", async () => {
  const bash = shell({ env: { PATH: "/usr/bin:/bin" }, cwd: "/" });
  await bash.run("X=1; cd /usr");
  expect(await bash.run("echo $X $PWD; false")).toEqual({ output: "1 /usr\n", code: 1 });
  await bash.end();
});

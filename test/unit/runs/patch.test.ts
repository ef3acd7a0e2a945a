import { expect, test } from "bun:test";
import { patchOf } from "../../../src/runs/worktree/patch.ts";

const side = (text: string, mode = "100644") => ({ mode, text });
const of = (before: string | null, after: string | null, leftMs = 1000) =>
  patchOf({
    from: "f",
    to: "f",
    before: before === null ? null : side(before),
    after: after === null ? null : side(after),
    time: { leftMs },
  });

test("a patch is what git would write", () => {
  expect(of("one\ntwo\nthree\n", "one\n2\nthree\n")).toBe(
    "diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n",
  );
  expect(of(null, "one\n")).toBe(
    "diff --git a/f b/f\nnew file mode 100644\n--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+one\n",
  );
  expect(of("one", null)).toBe(
    "diff --git a/f b/f\ndeleted file mode 100644\n--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n\\ No newline at end of file\n",
  );
  expect(of(null, "")).toBe("diff --git a/f b/f\nnew file mode 100644\n");
  expect(of("same\n", "same\n")).toBe("");
  expect(
    patchOf({
      from: "a b",
      to: 'c"',
      before: side("x\n"),
      after: side("x\n", "100755"),
      time: { leftMs: 1 },
    }),
  ).toBe('diff --git a/a b "b/c\\""\nold mode 100644\nnew mode 100755\nrename from a b\nrename to "c\\""\n');
});

test("one that would take too long to find says that all between the first and the last change is another", () => {
  const before = Array.from({ length: 60 }, (_, n) => `${n}\n`);
  const after = before.map((line, n) => (n % 2 === 0 || n < 10 || n > 50 ? line : `other ${line}`));
  const long = of(before.join(""), after.join(""), 0);
  const short = of(before.join(""), after.join(""));
  expect(long.split("\n").filter((line) => line.startsWith("@@")).length).toBe(1);
  expect(long.length).toBeGreaterThan(short.length);
  for (const patch of [long, short]) expect(applied(before, patch)).toEqual(after);
});

/** What `patch` would make of it. */
function applied(lines: readonly string[], patch: string): string[] {
  const result: string[] = [];
  let at = 0;
  for (const line of patch.split("\n").slice(3)) {
    const start = /^@@ -(\d+)/.exec(line)?.[1];
    if (start !== undefined) {
      result.push(...lines.slice(at, Number(start) - 1));
      at = Number(start) - 1;
    } else if (line.startsWith("+")) result.push(`${line.slice(1)}\n`);
    else if (line.startsWith(" ") || line.startsWith("-")) {
      if (lines[at] !== `${line.slice(1)}\n`) throw new Error(`line ${at} is not ${line}`);
      if (line.startsWith(" ")) result.push(`${line.slice(1)}\n`);
      at += 1;
    }
  }
  return [...result, ...lines.slice(at)];
}

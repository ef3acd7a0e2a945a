import { expect, test } from "bun:test";
import { judge, type Traces } from "../../../../src/sandboxd/run/fate.ts";

const ended = (traces: Partial<Traces>) =>
  judge({ status: 0, said: "", outOfMemory: false, ending: null, ...traces });

test("what the init said of the command is its exit code, whatever runsc and the kernel did after", () => {
  expect(ended({ status: 0, said: "exit 0" })).toMatchObject({ cause: "exit", exit_code: 0 });
  expect(ended({ status: 128, said: "exit 128" })).toMatchObject({ cause: "exit", exit_code: 128 });
  expect(ended({ status: 137, said: "exit 3", ending: "stopped" })).toMatchObject({
    cause: "exit",
    exit_code: 3,
  });
  expect(ended({ status: undefined, said: "exit 3" })).toMatchObject({ cause: "exit", exit_code: 3 });
  expect(ended({ said: "a warning\nexit 3\nlast words of runsc" })).toMatchObject({ exit_code: 3 });
  // One of its commands had no memory, and it went on.
  expect(ended({ said: "exit 1", outOfMemory: true })).toMatchObject({ cause: "exit", exit_code: 1 });
});

test("one that was killed is known by who killed it", () => {
  expect(ended({ status: 137, ending: "stopped" })).toMatchObject({ cause: "stopped", exit_code: null });
  expect(ended({ status: 137, ending: "timeout" })).toMatchObject({ cause: "timeout", exit_code: null });
  expect(ended({ status: 137, outOfMemory: true })).toMatchObject({ cause: "oom", exit_code: null });
  expect(ended({ status: 137, said: "exit 137", outOfMemory: true })).toMatchObject({ cause: "oom" });
});

test("of all else a person is told what is known", () => {
  expect(ended({ status: 137 })).toMatchObject({
    cause: "lost",
    exit_code: null,
    fault: "its sandbox or runsc was killed (exit status 137)",
  });
  expect(ended({ status: 128, said: "exit 3 is not said\nwaiting: EOF" }).fault).toBe(
    "its sandbox or runsc was killed (exit status 128: waiting: EOF)",
  );
  expect(ended({ status: undefined }).fault).toContain("the process that waited");
});

import { afterAll, expect, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { scratchDirectory } from "../../fixtures/scratch.ts";

/* The probe against the real runsc, and against the same with one of its virtues taken away. */

const runsc = resolve(process.env["COFFERDAM_STAGE"] ?? "dist/stage", "lib/cofferdam/runsc");
const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());

function probe(file: string): { exitCode: number; stderr: string } {
  const { exitCode, stderr } = Bun.spawnSync([resolve("build/probe-runsc"), file]);
  return { exitCode, stderr: stderr.toString() };
}

/** A runsc whose arguments go through `edit`, a bash statement on the array `a`. */
function spoilt(name: string, edit: string): string {
  const file = join(scratch.path, name);
  writeFileSync(file, `#!/bin/bash\na=("$@")\n${edit}\nexec ${runsc} "\${a[@]}"\n`, { mode: 0o755 });
  return file;
}

const traces = () => ({
  left: readdirSync("/tmp").filter((name) => name.startsWith("probe-runsc")),
  mounts: readFileSync("/proc/self/mountinfo", "utf8").split("\n").length,
});

test("a good one passes, and nothing of the probe is left", () => {
  const before = traces();
  expect(probe(runsc)).toEqual({ exitCode: 0, stderr: "" });
  expect(traces()).toEqual(before);
});

for (const { virtue, edit, sentence } of [
  {
    virtue: "starts at all",
    edit: "echo 'no such platform' >&2; exit 1",
    sentence: "does not boot with --platform=systrap",
  },
  {
    virtue: "enforces the seccomp profile",
    edit: 'for i in "${!a[@]}"; do [ "${a[i]}" != --oci-seccomp ] || unset "a[i]"; done',
    sentence: "does not enforce the seccomp profile",
  },
  {
    virtue: "uses the network namespace",
    edit: 'for i in "${!a[@]}"; do [ "${a[i]}" != --network=sandbox ] || a[i]=--network=none; done',
    sentence: "does not use the network namespace",
  },
  {
    virtue: "sees later mounts",
    edit: 'for i in "${!a[@]}"; do [ "${a[i]}" != --bundle ] || sed -i s/rslave/rprivate/ "${a[i+1]}/config.json"; done',
    sentence: "does not see a directory that is mounted after the boot",
  },
]) {
  test(`one that lacks this fails in one line: ${virtue}`, () => {
    const before = traces();
    const { exitCode, stderr } = probe(spoilt(virtue.replaceAll(" ", "-"), edit));
    expect(stderr).toStartWith("probe-runsc: ");
    expect(stderr).toContain(sentence);
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
    expect(exitCode).toBe(1);
    expect(traces()).toEqual(before);
  });
}

test("what is no program is refused", () => {
  expect(probe("/etc/passwd")).toEqual({
    exitCode: 1,
    stderr: "probe-runsc: /etc/passwd is not an executable file\n",
  });
});

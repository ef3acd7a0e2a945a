import { Glob } from "bun";
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { amount } from "../../fixtures/amount.ts";

/**
 * The init's own code, driven without a sandbox under the address and undefined-behaviour sanitizers: see driver/driver.c. Each run
 * plays other rounds; SEED=N starts from the one that a failure names.
 */
const init = join(import.meta.dir, "../../../rootfs/init");
const long = process.env["COFFERDAM_TEST_LONG"] === "1";
const seconds = long ? amount("FUZZ_S", 300) : 4;
const timeoutMs = (seconds + 60) * 1000;
const driver = join(import.meta.dir, "driver");
const sources = [
  ...["driver.c", "api.c", "answers.c", "shells.c", "dice.c"].map((name) => join(driver, name)),
  ...["frames.c", "session.c", "calls.c", "spares.c", "streams.c", "shell.c"].map((name) => join(init, name)),
];
const common = [
  "-std=gnu17",
  "-g",
  "-O1",
  "-fno-sanitize-recover=all",
  "-include",
  join(driver, "fakes.h"),
  "-I",
  init,
];

let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "init-driver-"));
});

afterAll(() => {
  rmSync(directory, { recursive: true });
});

async function run(command: string[]) {
  const child = Bun.spawn(command, { cwd: directory, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { exitCode: await child.exited, stdout, stderr };
}

const build = (compiler: string, name: string, ...flags: string[]) =>
  run([compiler, ...common, ...flags, "-o", join(directory, name), ...sources]);

test(
  "right calls are served, wrong frames and noise end it, whatever the pieces",
  async () => {
    expect(
      await build("gcc", "driver", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"),
    ).toMatchObject({
      exitCode: 0,
      stderr: "",
    });
    const seed = process.env["SEED"] ?? `${Date.now()}`;
    const { exitCode, stdout, stderr } = await run([join(directory, "driver"), `${seconds}`, seed]);
    expect(stderr).not.toContain("FAILED");
    expect({ exitCode, stderr }).toMatchObject({ exitCode: 0 });
    console.log(stdout.trim());
    expect(Number(stdout.split(" ")[0])).toBeGreaterThan(10);
  },
  timeoutMs,
);

// Coverage-guided where clang has its fuzzer (Debian: libclang-rt-14-dev); the dice above need nothing but gcc.
const hasLibFuzzer =
  [...new Glob("usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-x86_64.a").scanSync("/")].length > 0;

test.if(long && hasLibFuzzer)(
  "libFuzzer finds nothing",
  async () => {
    const built = await build("clang", "fuzzer", "-DLIBFUZZER", "-fsanitize=fuzzer,address,undefined");
    expect(built).toMatchObject({ exitCode: 0 });
    const { exitCode, stderr } = await run([
      join(directory, "fuzzer"),
      `-max_total_time=${seconds}`,
      "-max_len=20000",
      "-print_final_stats=1",
    ]);
    expect({ exitCode, stderr }).toMatchObject({ exitCode: 0 });
  },
  timeoutMs,
);

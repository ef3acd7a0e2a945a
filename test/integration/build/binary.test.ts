import { afterAll, expect, test } from "bun:test";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());

/** A copy of what build/binary.ts reads, at another place. */
function clone(name: string): string {
  const dir = join(scratch.path, name);
  mkdirSync(dir, { recursive: true });
  for (const part of [
    "src",
    "build",
    "package.json",
    "bun.lock",
    "tsconfig.json",
    "bunfig.toml",
    "node_modules",
  ])
    cpSync(resolve(part), join(dir, part), {
      recursive: true,
      verbatimSymlinks: true,
      filter: (path) => !/\/node_modules\/(?:@oven|bun|@?typescript|@?ox|\.bin)/.test(path),
    });
  return dir;
}

function compile(dir: string): { exitCode: number; stderr: string; digest: string | null } {
  const outfile = join(dir, "out/cofferdam");
  const { exitCode, stderr } = Bun.spawnSync(
    [process.execPath, join(dir, "build/binary.ts"), "--outfile", outfile, "--commit", "0123"],
    { cwd: "/" },
  );
  const digest =
    exitCode === 0 ? new Bun.CryptoHasher("sha256").update(readFileSync(outfile)).digest("hex") : null;
  return { exitCode, stderr: stderr.toString(), digest };
}

test("the same sources make the same executable, wherever they lie; others make another", () => {
  const one = clone("a");
  const two = clone("somewhere/else");
  const first = compile(one);
  expect(first).toMatchObject({ exitCode: 0, stderr: "" });
  expect(compile(two)).toEqual(first);
  writeFileSync(
    join(two, "src/errors.ts"),
    `${readFileSync(join(two, "src/errors.ts"), "utf8")}\nvoid console.warn;\n`,
  );
  expect(compile(two).digest).not.toBe(first.digest);
});

test("a libsql that looks for its native part in another way stops the build", () => {
  const dir = clone("libsql");
  const file = join(dir, "node_modules/libsql/index.js");
  const text = readFileSync(file, "utf8");
  // The package manager's copy may share its inode with a cache.
  rmSync(file);
  writeFileSync(file, text.replaceAll("requireNative", "findNative"));
  const { exitCode, stderr } = compile(dir);
  expect(exitCode).not.toBe(0);
  expect(stderr).toContain("requireNative() is not as it was; adapt build/binary.ts");
});

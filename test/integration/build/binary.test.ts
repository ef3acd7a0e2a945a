import { afterAll, expect, test } from "bun:test";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());

const packages = join(scratch.path, "packages");

function compile(dir: string): { exitCode: number; stderr: string; digest: string | null } {
  const outfile = join(scratch.path, "cofferdam");
  const options = ["--outfile", outfile, "--commit", "0123", "--packages", packages];
  const { exitCode, stderr } = Bun.spawnSync([process.execPath, join(dir, "build/binary.ts"), ...options], {
    cwd: "/",
  });
  const digest =
    exitCode === 0 ? new Bun.CryptoHasher("sha256").update(readFileSync(outfile)).digest("hex") : null;
  return { exitCode, stderr: stderr.toString(), digest };
}

const here = compile(resolve("."));

/** What this clone's executable is made of, at another place: of all packages, those that are inside. */
function clone(name: string): string {
  const dir = join(scratch.path, name);
  const inside = readFileSync(packages, "utf8").match(/^(@[^/\n]+\/)?[^/\n]+/gm) ?? [];
  for (const part of [
    "src",
    "build",
    "package.json",
    "bun.lock",
    "tsconfig.json",
    "bunfig.toml",
    ...new Set(inside.map((key) => join("node_modules", key))),
  ])
    cpSync(resolve(part), join(dir, part), { recursive: true, verbatimSymlinks: true });
  return dir;
}

test("the same sources make the same executable, wherever they lie; others make another", () => {
  expect(here).toMatchObject({ exitCode: 0, stderr: "" });
  const two = clone("somewhere/else");
  expect(compile(two)).toEqual(here);
  writeFileSync(
    join(two, "src/errors.ts"),
    `${readFileSync(join(two, "src/errors.ts"), "utf8")}\nvoid console.warn;\n`,
  );
  expect(compile(two).digest).not.toBe(here.digest);
}, 180_000);

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

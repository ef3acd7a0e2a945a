import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const repo = resolve(import.meta.dir, "../../..");

test("shellcheck finds nothing in any shell script of the repo", () => {
  const files = Bun.spawnSync(
    ["git", "-c", `safe.directory=${repo}`, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    { cwd: repo },
  );
  const scripts = files.stdout
    .toString()
    .split("\0")
    .filter((name) => name !== "" && isShell(name));
  // A rule that finds no script would pass.
  expect(scripts).toContain("build/all");
  expect(scripts).toContain("install.sh");
  // Then also what they source, in the light of those who source it; there only what shellcheck calls a warning.
  for (const options of [["-x"], ["-x", "-a", "-S", "warning"]]) {
    const { exitCode, stdout, stderr } = Bun.spawnSync(["shellcheck", ...options, ...scripts], { cwd: repo });
    expect(`${stdout.toString()}${stderr.toString()}`).toBe("");
    expect(exitCode).toBe(0);
  }
}, 120_000);

function isShell(name: string): boolean {
  try {
    return /^#!\/(usr\/)?bin\/(env )?(ba)?sh\b/.test(
      readFileSync(resolve(repo, name), "latin1").slice(0, 40),
    );
  } catch {
    // Listed, but removed from the work tree.
    return false;
  }
}

import { afterAll, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { dependencies } from "../../../package.json";
import { scratchDirectory } from "../../fixtures/scratch.ts";

/* Minutes and some gigabytes. test/install drives install.sh from such a tree, laid out from the stage. */
const long = process.env["COFFERDAM_TEST_LONG"] === "1";
const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());

function run(argv: string[], cwd = scratch.path): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv, { cwd });
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr.toString()}`);
  return stdout.toString();
}

test.if(long)(
  "a release holds all that install.sh needs, says so with sums that hold, and is the same each time",
  () => {
    const repo = join(scratch.path, "repo");
    const here = resolve(import.meta.dir, "../../..");
    run(["git", "-c", `safe.directory=${here}`, "clone", "-q", "--no-hardlinks", here, repo]);
    const archive = run([join(repo, "build/release"), join(scratch.path, "one")]).trim();
    run([join(repo, "build/release"), join(scratch.path, "two")]);
    const name = archive.slice(archive.lastIndexOf("/") + 1);
    run(["cmp", archive, join(scratch.path, "two", name)]);
    expect(readdirSync(join(scratch.path, "one")).toSorted()).toEqual([name, `${name}.sha256`].toSorted());
    run(["sha256sum", "--check", "--strict", `${name}.sha256`], join(scratch.path, "one"));

    run(["tar", "-xzf", archive]);
    const tree = join(scratch.path, name.replace("-linux-x64.tar.gz", ""));
    run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], tree);
    for (const file of [
      "bin/cofferdam",
      "lib/cofferdam/runsc",
      "lib/cofferdam/rootfs.erofs",
      "lib/cofferdam/run.erofs",
      "lib/cofferdam/manifest.json",
      "install.sh",
      "systemd/cofferdam.target",
      "sbom.cdx.json",
      "README.md",
    ])
      expect({ file, there: existsSync(join(tree, file)) }).toEqual({ file, there: true });
    // Nothing in it that the sums do not cover.
    const listed = run(["sed", "s/^[0-9a-f]*  //", "SHA256SUMS"], tree).trim().split("\n");
    const files = run(["find", ".", "-type", "f", "-printf", "%P\\n"], tree).trim().split("\n");
    expect(files.filter((file) => file !== "SHA256SUMS").toSorted()).toEqual(listed.toSorted());
    const { components } = JSON.parse(run(["cat", "sbom.cdx.json"], tree)) as {
      components: { name: string }[];
    };
    const names = components.map(({ name }) => name);
    const agents = ["@anthropic-ai/claude-code-linux-x64", "@openai/codex", "opencode-linux-x64-baseline"];
    for (const name of [...Object.keys(dependencies), "gvisor.dev/gvisor", "ffmpeg", ...agents])
      expect(names).toContain(name);
    expect(names).not.toContain("typescript");
    run(["bash", "-c", "printf x >>bin/cofferdam"], tree);
    expect(() => run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], tree)).toThrow(
      "did NOT match",
    );
  },
  1_200_000,
);

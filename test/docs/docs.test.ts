import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { sdkBin } from "../fixtures/sdk.ts";
import { matches, shell, steps } from "../fixtures/transcript.ts";

// A busy machine may take long to boot a sandbox or two.
setDefaultTimeout(60_000);

/*
 * Every command of the README and of docs/, run as a reader would, in a throw-away copy of the machine on which
 * install.sh has installed the built stage. Blocks marked `console systemd` are run by test/install on a systemd host.
 */
const repo = resolve(import.meta.dir, "../..");
const work = mkdtempSync("/scratch/tour-");
const install = Bun.spawnSync([join(repo, "install.sh"), "--keys-file", "keys.json"], {
  cwd: work,
  stdout: "pipe",
  stderr: "pipe",
});
const bash = shell({
  cwd: work,
  env: { HOME: "/root", PATH: `${sdkBin()}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`, LANG: "C.UTF-8" },
});
afterAll(async () => {
  await bash.end();
  Bun.spawnSync([join(repo, "install.sh"), "--uninstall", "--purge"]);
}, 60_000);

test("install.sh, the first of the README's two commands", () => {
  expect(install.exitCode, `${install.stdout.toString()}${install.stderr.toString()}`).toBe(0);
});

const documents = [
  "README.md",
  ...readdirSync(join(repo, "docs"))
    .toSorted()
    .map((name) => `docs/${name}`),
].filter((name) => name.endsWith(".md"));

for (const document of documents) {
  for (const step of steps(document, readFileSync(join(repo, document), "utf8"), "console")) {
    test(`${step.file}:${step.line} ${step.command.split("\n")[0]}`, async () => {
      const { output } = await bash.run(step.command);
      expect(matches(step.output, output), `shown:\n${step.output}\nreal:\n${output}`).toBe(true);
    });
  }
}

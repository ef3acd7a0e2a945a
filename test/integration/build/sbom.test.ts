import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import lock from "../../../bun.lock";
import agentsLock from "../../../rootfs/agents/bun.lock";
import { dependencies } from "../../../rootfs/agents/package.json";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const MODULES = `runsc: go1.27.3
\tpath\tgvisor.dev/gvisor/runsc
\tmod\tgvisor.dev/gvisor\tv0.0.0-1\th1:gvisor=
\tdep\tgolang.org/x/sys\tv0.43.0\th1:sys=
\tbuild\t-trimpath=true
`;
const NPM = ["@libsql/linux-x64-gnu", "elysia"];
const CLAUDE = "@anthropic-ai/claude-code-linux-x64";
const AGENTS = `${CLAUDE}\tSEE LICENSE IN README.md\n@openai/codex-linux-x64\tApache-2.0\n`;
const PACKAGES = "g++\t4:14.2.0-1\tamd64\tgcc-defaults\t1.220\nbash\t5.2.37-2+b5\tamd64\tbash\t5.2.37-2\n";

function sbom(go: string, debian: string, { npm = NPM, agents = AGENTS } = {}) {
  using scratch = scratchDirectory();
  const file = (name: string, text: string): string => {
    writeFileSync(join(scratch.path, name), text);
    return join(scratch.path, name);
  };
  const lists = [
    "--go",
    file("go", go),
    "--debian",
    file("debian", debian),
    "--npm",
    file("npm", npm.join("\n")),
    "--agents",
    file("agents", agents),
  ];
  const { exitCode, stdout, stderr } = Bun.spawnSync(
    [
      process.execPath,
      resolve("build/sbom.ts"),
      "--bun",
      "1.2.3",
      "--timestamp",
      "2026-01-02T03:04:05Z",
    ].concat(lists),
  );
  return { exitCode, text: stdout.toString(), stderr: stderr.toString() };
}

interface Component {
  readonly name: string;
  readonly version: string;
  readonly purl: string;
  readonly hashes?: { readonly content: string }[];
  readonly licenses?: unknown[];
}

test("lists what is inside, with the digests that the build checks, the same each time", () => {
  const { exitCode, text, stderr } = sbom(MODULES, PACKAGES);
  expect(stderr).toBe("");
  expect(exitCode).toBe(0);
  expect(sbom(MODULES, PACKAGES).text).toBe(text);
  const { components, bomFormat } = JSON.parse(text) as { components: Component[]; bomFormat: string };
  expect(bomFormat).toBe("CycloneDX");
  const purls = components.map(({ purl }) => purl);
  expect(new Set(purls).size).toBe(purls.length);
  expect(purls).toContain("pkg:npm/bun@1.2.3");
  expect(purls).toContain("pkg:golang/gvisor.dev/gvisor@v0.0.0-1");
  expect(purls).toContain("pkg:golang/golang.org/x/sys@v0.43.0");
  expect(purls).toContain("pkg:golang/std@1.27.3");
  expect(purls).toContain("pkg:deb/debian/g%2B%2B@4%3A14.2.0-1?arch=amd64&distro=trixie");
  expect(components.filter(({ purl }) => purl.startsWith("pkg:npm/%40libsql/linux-x64-gnu@"))).toHaveLength(
    1,
  );
  const sha512 = (integrity = "") => Buffer.from(integrity.replace("sha512-", ""), "base64").toString("hex");
  const locked = (packages: object, name: string) =>
    sha512((packages as Record<string, string[]>)[name]?.[3]);
  const elysia = components.find(({ name }) => name === "elysia");
  expect(elysia?.hashes?.[0]?.content).toBe(locked(lock.packages, "elysia"));
  expect(elysia?.licenses).toEqual([{ expression: "MIT" }]);
  // The agents are in the second image alone.
  const version = dependencies["@anthropic-ai/claude-code"];
  expect(components.find(({ name }) => name === CLAUDE)).toMatchObject({
    version,
    purl: `pkg:npm/%40anthropic-ai/claude-code-linux-x64@${version}`,
    hashes: [{ content: locked(agentsLock.packages, CLAUDE) }],
    licenses: [{ license: { name: "SEE LICENSE IN README.md" } }],
  });
  const codex = `${dependencies["@openai/codex"]}-linux-x64`;
  expect(components.find(({ name }) => name === "@openai/codex")).toMatchObject({
    version: codex,
    purl: `pkg:npm/%40openai/codex@${codex}`,
    hashes: [{ content: locked(agentsLock.packages, "@openai/codex-linux-x64") }],
    licenses: [{ expression: "Apache-2.0" }],
  });
});

test("refuses what it cannot read", () => {
  expect(sbom("nothing of Go's", PACKAGES).stderr).toContain("is not what go version -m prints");
  expect(sbom(MODULES.replaceAll("gvisor.dev/gvisor", "example.invalid"), PACKAGES).stderr).toContain(
    "runsc is not built from gVisor",
  );
  expect(sbom(MODULES, PACKAGES, { npm: ["left-pad"] }).stderr).toContain("bun.lock has no package left-pad");
  expect(sbom(MODULES, PACKAGES, { agents: "left-pad\tMIT\n" }).stderr).toContain(
    "rootfs/agents/bun.lock has no package left-pad",
  );
  expect(sbom(MODULES, PACKAGES, { agents: CLAUDE }).stderr).toContain(`not an agent: ${CLAUDE}`);
  expect(sbom(MODULES, "bash\n").stderr).toContain("not a package: bash");
});

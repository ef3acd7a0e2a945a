import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import lock from "../../../bun.lock";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const MODULES = `runsc: go1.27.3
\tpath\tgvisor.dev/gvisor/runsc
\tmod\tgvisor.dev/gvisor\tv0.0.0-1\th1:gvisor=
\tdep\tgolang.org/x/sys\tv0.43.0\th1:sys=
\tbuild\t-trimpath=true
`;
const NPM = ["@libsql/linux-x64-gnu", "elysia"];
const PACKAGES = "g++\t4:14.2.0-1\tamd64\tgcc-defaults\t1.220\nbash\t5.2.37-2+b5\tamd64\tbash\t5.2.37-2\n";

function sbom(go: string, debian: string, npm = NPM) {
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
  const elysia = components.find(({ name }) => name === "elysia");
  const integrity = (lock.packages["elysia"] as unknown as string[])[3] ?? "";
  expect(elysia?.hashes?.[0]?.content).toBe(
    Buffer.from(integrity.replace("sha512-", ""), "base64").toString("hex"),
  );
});

test("refuses what it cannot read", () => {
  expect(sbom("nothing of Go's", PACKAGES).stderr).toContain("is not what go version -m prints");
  expect(sbom(MODULES.replaceAll("gvisor.dev/gvisor", "example.invalid"), PACKAGES).stderr).toContain(
    "runsc is not built from gVisor",
  );
  expect(sbom(MODULES, PACKAGES, ["left-pad"]).stderr).toContain("bun.lock has no package left-pad");
  expect(sbom(MODULES, "bash\n").stderr).toContain("not a package: bash");
});

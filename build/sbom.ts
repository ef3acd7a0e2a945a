/**
 * bun build/sbom.ts --bun VERSION --npm FILE --go FILE --debian FILE --timestamp ISO: prints a CycloneDX bill of
 * materials: what the executable, runsc and the sandboxes' root file system are made from, with the digests that
 * the build checked. The same inputs give the same bytes.
 */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { z } from "zod";
import lock from "../bun.lock";
import { version } from "../package.json" with { type: "json" };

interface Component {
  readonly type: "application" | "library";
  readonly "bom-ref": string;
  readonly name: string;
  readonly version: string;
  readonly purl: string;
  readonly hashes?: readonly { readonly alg: "SHA-512"; readonly content: string }[];
  readonly properties?: readonly { readonly name: string; readonly value: string }[];
}

const { values } = parseArgs({
  options: {
    bun: { type: "string" },
    npm: { type: "string" },
    go: { type: "string" },
    debian: { type: "string" },
    timestamp: { type: "string" },
  },
});
const inputs = z
  .object({
    bun: z.string(),
    npm: z.string(),
    go: z.string(),
    debian: z.string(),
    timestamp: z.iso.datetime({ offset: true }),
  })
  .parse(values);

const lockedPackage = z.tuple([z.string(), z.string(), z.unknown(), z.string().startsWith("sha512-")]);

/** What build/binary.ts put into the executable, by its keys in bun.lock. */
function npmComponents(): Component[] {
  const packages: Record<string, unknown> = lock.packages;
  return lines(inputs.npm).map((key) => {
    const [id, , , integrity] = lockedPackage.parse(packages[key], {
      error: () => `bun.lock has no package ${key}`,
    });
    const at = id.lastIndexOf("@");
    const name = id.slice(0, at);
    const version = id.slice(at + 1);
    return {
      type: "library",
      "bom-ref": `npm:${key}@${version}`,
      name,
      version,
      purl: `pkg:npm/${name.replace("@", "%40")}@${version}`,
      hashes: [
        { alg: "SHA-512", content: Buffer.from(integrity.slice("sha512-".length), "base64").toString("hex") },
      ],
    };
  });
}

function lines(file: string): string[] {
  return readFileSync(file, "utf8").trimEnd().split("\n");
}

/** From `go version -m`. */
function goComponents(): Component[] {
  const text = readFileSync(inputs.go, "utf8");
  const toolchain = /^\S+: go(\S+)/.exec(text)?.[1];
  if (toolchain === undefined) throw new Error(`${inputs.go} is not what go version -m prints`);
  const modules = [...text.matchAll(/^\t(?:dep|mod)\t(\S+)\t(\S+)\t(\S+)$/gm)].map(
    ([, name = "", at = "", sum = ""]) => ({
      type: "library" as const,
      "bom-ref": `go:${name}@${at}`,
      name,
      version: at,
      purl: `pkg:golang/${name}@${at}`,
      properties: [{ name: "go:sum", value: sum }],
    }),
  );
  if (!modules.some(({ name }) => name === "gvisor.dev/gvisor"))
    throw new Error("runsc is not built from gVisor");
  return [
    {
      type: "library",
      "bom-ref": `go:std@${toolchain}`,
      name: "std",
      version: toolchain,
      purl: `pkg:golang/std@${toolchain}`,
    },
    ...modules,
  ];
}

/** From the image's own list of packages (rootfs/build). */
function debianComponents(): Component[] {
  return lines(inputs.debian).map((line) => {
    const [name, at, arch, source, sourceVersion] = line.split("\t");
    if (!name || !at || !arch || !source || !sourceVersion)
      throw new Error(`${inputs.debian}: not a package: ${line}`);
    return {
      type: "library",
      "bom-ref": `deb:${name}@${at}:${arch}`,
      name,
      version: at,
      purl: `pkg:deb/debian/${encodeURIComponent(name)}@${encodeURIComponent(at)}?arch=${arch}&distro=trixie`,
      properties: [{ name: "debian:source", value: `${source} ${sourceVersion}` }],
    };
  });
}

const bun: Component = {
  type: "application",
  "bom-ref": `npm:bun@${inputs.bun}`,
  name: "bun",
  version: inputs.bun,
  purl: `pkg:npm/bun@${inputs.bun}`,
};

const bom = {
  bomFormat: "CycloneDX",
  specVersion: "1.5",
  version: 1,
  metadata: {
    timestamp: inputs.timestamp,
    component: { type: "application", "bom-ref": "cofferdam", name: "cofferdam", version },
  },
  components: [bun, ...npmComponents(), ...goComponents(), ...debianComponents()],
};
process.stdout.write(`${JSON.stringify(bom, null, 1)}\n`);

/**
 * bun build/sbom.ts --bun VERSION --modules FILE --packages FILE --timestamp ISO: prints a CycloneDX bill of
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
    modules: { type: "string" },
    packages: { type: "string" },
    timestamp: { type: "string" },
  },
});
const inputs = z
  .object({
    bun: z.string(),
    modules: z.string(),
    packages: z.string(),
    timestamp: z.iso.datetime({ offset: true }),
  })
  .parse(values);

const dependencyMap = z.record(z.string(), z.string()).default({});
const npmEntry = z.tuple([
  z.string(),
  z.string(),
  z.object({
    dependencies: dependencyMap,
    optionalDependencies: dependencyMap,
    peerDependencies: dependencyMap,
    optionalPeers: z.array(z.string()).default([]),
    os: z.unknown().optional(),
    libc: z.unknown().optional(),
  }),
  z.string().startsWith("sha512-"),
]);

/** What package.json's dependencies (not the tools of a developer) lead to in bun.lock, for this platform. */
function npmComponents(): Component[] {
  const packages: Record<string, unknown> = lock.packages;
  const seen = new Map<string, Component>();
  const visit = (name: string, parents: readonly string[], required: boolean): void => {
    // As Node resolves: the copy below the nearest parent, at last the one at the top.
    const keys = parents.map((_, depth) => [...parents.slice(0, parents.length - depth), name].join("/"));
    const key = [...keys, name].find((candidate) => candidate in packages);
    if (key === undefined) {
      if (required) throw new Error(`bun.lock lacks ${name}`);
      return;
    }
    if (seen.has(key)) return;
    const [id, , info, integrity] = npmEntry.parse(packages[key]);
    if (!forThisPlatform(info)) return;
    const at = id.lastIndexOf("@");
    seen.set(key, {
      type: "library",
      "bom-ref": `npm:${id}`,
      name: id.slice(0, at),
      version: id.slice(at + 1),
      purl: `pkg:npm/${id.slice(0, at).replace("@", "%40")}@${id.slice(at + 1)}`,
      hashes: [
        { alg: "SHA-512", content: Buffer.from(integrity.slice("sha512-".length), "base64").toString("hex") },
      ],
    });
    const path = key === name ? [name] : [...parents, name];
    for (const dependency of Object.keys(info.dependencies)) visit(dependency, path, true);
    for (const dependency of Object.keys({ ...info.optionalDependencies, ...info.peerDependencies }))
      visit(dependency, path, false);
  };
  for (const name of Object.keys(lock.workspaces[""]?.dependencies ?? {})) visit(name, [], true);
  return [...seen.values()];
}

function forThisPlatform(info: { os?: unknown; libc?: unknown }): boolean {
  const os = [info.os ?? []].flat();
  const libc = [info.libc ?? []].flat();
  return (
    (os.length === 0 || os.includes("linux") || os.includes("!win32")) &&
    (libc.length === 0 || libc.includes("glibc"))
  );
}

/** From `go version -m`. */
function goComponents(): Component[] {
  const text = readFileSync(inputs.modules, "utf8");
  const toolchain = /^\S+: go(\S+)/.exec(text)?.[1];
  if (toolchain === undefined) throw new Error(`${inputs.modules} is not what go version -m prints`);
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
  return readFileSync(inputs.packages, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => {
      const [name, at, arch, source, sourceVersion] = line.split("\t");
      if (!name || !at || !arch || !source || !sourceVersion)
        throw new Error(`${inputs.packages}: not a package: ${line}`);
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

/**
 * bun build/sbom.ts --bun VERSION --npm FILE --go FILE --debian FILE --agents FILE --timestamp ISO: prints a CycloneDX
 * bill of materials: what the executable, runsc and the sandboxes' two root file systems are made from, with the digests
 * that the build checked, and with licenses where packages name theirs in a field. The same inputs give the same bytes.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { z } from "zod";
import lock from "../bun.lock";
import agentsLock from "../rootfs/agents/bun.lock";
import { version } from "../package.json" with { type: "json" };

type License = { readonly expression: string } | { readonly license: { readonly name: string } };

interface Component {
  readonly type: "application" | "library";
  readonly "bom-ref": string;
  readonly name: string;
  readonly version: string;
  readonly purl: string;
  readonly licenses?: readonly License[];
  readonly hashes?: readonly { readonly alg: "SHA-512"; readonly content: string }[];
  readonly properties?: readonly { readonly name: string; readonly value: string }[];
}

const { values } = parseArgs({
  options: {
    bun: { type: "string" },
    npm: { type: "string" },
    go: { type: "string" },
    debian: { type: "string" },
    agents: { type: "string" },
    timestamp: { type: "string" },
  },
});
const inputs = z
  .object({
    bun: z.string(),
    npm: z.string(),
    go: z.string(),
    debian: z.string(),
    agents: z.string(),
    timestamp: z.iso.datetime({ offset: true }),
  })
  .parse(values);

const lockedPackage = z.tuple([z.string(), z.string(), z.unknown(), z.string().startsWith("sha512-")]);
const manifest = z.object({ license: z.string().optional() });
/** As package.json has it: an SPDX expression, or a sentence. */
const SPDX = /^[(]*[A-Za-z0-9.+-]+[)]*( (AND|OR|WITH) [(]*[A-Za-z0-9.+-]+[)]*)*$/;

/** A package by its key in a lock file: "name", or "above/name" where two versions are needed. */
function npmComponent(
  key: string,
  from: { readonly lock: typeof lock; readonly name: string; readonly ref: string },
  license: string | undefined,
): Component {
  const packages: Record<string, unknown> = from.lock.packages;
  const [id, , , integrity] = lockedPackage.parse(packages[key], {
    error: () => `${from.name} has no package ${key}`,
  });
  const at = id.lastIndexOf("@");
  const name = id.slice(0, at);
  const version = id.slice(at + 1);
  return {
    type: "library",
    "bom-ref": `${from.ref}:${key}@${version}`,
    name,
    version,
    purl: `pkg:npm/${name.replace("@", "%40")}@${version}`,
    ...(license === undefined
      ? {}
      : { licenses: [SPDX.test(license) ? { expression: license } : { license: { name: license } }] }),
    hashes: [
      { alg: "SHA-512", content: Buffer.from(integrity.slice("sha512-".length), "base64").toString("hex") },
    ],
  };
}

/** What build/binary.ts put into the executable, by its keys in bun.lock. */
function npmComponents(): Component[] {
  const from = { lock, name: "bun.lock", ref: "npm" };
  return lines(inputs.npm).map((key) => npmComponent(key, from, licenseOf(key)));
}

/** By what is installed beside the sources. */
function licenseOf(key: string): string | undefined {
  const path = (key.match(/(@[^/]+\/)?[^/]+/g) ?? []).map((name) => `node_modules/${name}`).join("/");
  const file = join(import.meta.dir, "..", path, "package.json");
  return existsSync(file) ? manifest.parse(JSON.parse(readFileSync(file, "utf8"))).license : undefined;
}

/** From the runs' image's own list (rootfs/build). */
function agentComponents(): Component[] {
  const from = { lock: agentsLock, name: "rootfs/agents/bun.lock", ref: "agent" };
  return lines(inputs.agents).map((line) => {
    const [key, license] = line.split("\t");
    if (!key || !license) throw new Error(`${inputs.agents}: not an agent: ${line}`);
    return npmComponent(key, from, license);
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
  components: [bun, ...npmComponents(), ...goComponents(), ...debianComponents(), ...agentComponents()],
};
process.stdout.write(`${JSON.stringify(bom, null, 1)}\n`);

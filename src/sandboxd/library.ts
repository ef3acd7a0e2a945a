import { createHash } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "../config/schema.ts";
import { sandboxId } from "../ids.ts";
import type { Instance } from "../instance/instance.ts";
import { readManifest, type Manifest } from "../manifest.ts";
import { sandboxNames } from "./names.ts";
import { runscFlags, sandboxSpec } from "./spec.ts";

/** What lies beside the executable, in PREFIX/lib/cofferdam: root's, and as trusted as the executable itself. */
export interface Library {
  readonly manifest: Manifest;
  readonly runsc: string;
  readonly rootImage: string;
  /** The same with agents, for runs. */
  readonly runImage: string;
}

/** Throws a sentence that names the file when one is missing, or when somebody other than root could change it. */
export function openLibrary(lib: string): Library {
  const manifestFile = owned(join(lib, "manifest.json"));
  const manifest = readManifest(lib);
  if (manifest === null) throw new Error(`${manifestFile} is missing: run install.sh again`);
  return {
    manifest,
    runsc: owned(join(lib, "runsc")),
    rootImage: owned(join(lib, "rootfs.erofs")),
    runImage: owned(join(lib, "run.erofs")),
  };
}

function owned(file: string): string {
  if (!existsSync(file)) throw new Error(`${file} is missing: run install.sh again`);
  const { uid, mode } = statSync(file);
  if (uid !== 0 || (mode & 0o022) !== 0)
    throw new Error(`${file} must belong to root and be writable by root only`);
  return file;
}

/** Names what a sandbox is made from. Spares that an older runsc, image or configuration made are not used. */
export function makeOf(library: Library, instance: Instance, config: Config): string {
  const names = sandboxNames(instance, sandboxId.schema.parse(`sb-${"a".repeat(10)}`));
  const parts = [
    library.manifest,
    sandboxSpec(names, library.rootImage, config),
    runscFlags(instance.sandboxd.runsc, config.exec.directfs),
    config.exec,
  ];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}

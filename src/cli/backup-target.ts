import { resolve, sep } from "node:path";
import { createDirectoryTarget } from "../backup/directory.ts";
import { createClient } from "../blobs/s3/client.ts";
import { parseCredentials, type Credentials } from "../blobs/s3/credentials.ts";
import { probeBucket, reachBucket } from "../blobs/s3/probe.ts";
import { createS3Store } from "../blobs/s3/store.ts";
import type { BlobStore } from "../blobs/store.ts";
import { bucketOf, type Bucket } from "../config/bucket.ts";
import type { Config } from "../config/schema.ts";
import { AppError } from "../errors.ts";
import type { Instance } from "../instance/instance.ts";
import { readNamed } from "./backup-options.ts";
import { terminal } from "./terminal.ts";

export interface Target {
  readonly store: BlobStore;
  /** Resolves when it can be used; `writing`: for a new backup. */
  look(writing: boolean): Promise<void>;
  /** As a person calls it. */
  readonly name: string;
  readonly bucket: Bucket | null;
}

export interface TargetOptions {
  readonly endpoint?: string | undefined;
  readonly region?: string | undefined;
  readonly "credentials-file"?: string | undefined;
}

/** A directory, or `s3://BUCKET/PREFIX` with what the options or else `[backup]` say of it. */
export function openTarget(to: string, options: TargetOptions, backup: Config["backup"]): Target {
  if (!to.startsWith("s3://")) {
    const dir = resolve(to);
    return { store: createDirectoryTarget(dir), look: async () => {}, name: dir, bucket: null };
  }
  const [name = "", ...path] = to.slice("s3://".length).split("/");
  const bucket = bucketAs(name, path.filter((part) => part !== "").join("/"), options, backup);
  const file = options["credentials-file"] ?? backup.credentials_file;
  const credentials = credentialsIn(file);
  const client = createClient({ bucket, credentials: () => credentials });
  const store = createS3Store(client, {
    // What is thrown is meant for callers of an api, who don't know of the bucket.
    error(message, fields) {
      const reason = fields?.["reason"];
      terminal.error(typeof reason === "string" ? reason : message);
    },
  });
  return {
    store,
    look: async (writing) => (writing ? probeBucket(client, store) : reachBucket(client)),
    name: `s3://${name}/${bucket.prefix}`.replace(/\/$/, ""),
    bucket,
  };
}

/** Where the appliance keeps its files each would take the other's for what nobody needs. */
export function refuseOwn(target: Target, storage: Config["storage"], { api }: Pick<Instance, "api">): void {
  const { bucket, name } = target;
  const own = bucketOf(storage);
  const isOwn =
    bucket === null
      ? `${name}${sep}`.startsWith(`${api.dir}${sep}`)
      : bucket.name === own?.name && bucket.endpoint === own.endpoint && bucket.prefix === own.prefix;
  if (!isOwn) return;
  throw new AppError(
    "conflict",
    `The appliance keeps its files in ${name}; give the backups a place of their own, in another bucket or on another disk.`,
  );
}

function bucketAs(name: string, prefix: string, options: TargetOptions, backup: Config["backup"]) {
  const said = {
    kind: "s3",
    bucket: name,
    prefix,
    endpoint: options.endpoint ?? backup.endpoint,
    region: options.region ?? backup.region,
    path_style: backup.path_style,
    sse: false,
    credentials_file: "",
  } as const;
  try {
    const bucket = bucketOf(said);
    if (bucket !== null) return bucket;
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    throw new AppError("invalid", error.message.replace("[storage]", `s3://${name}:`));
  }
  throw new AppError("invalid", "Name the bucket: s3://BUCKET/PREFIX.");
}

function credentialsIn(file: string): Credentials {
  if (file === "") {
    throw new AppError(
      "invalid",
      "A bucket takes credentials: give --credentials-file FILE, or set [backup] credentials_file.",
    );
  }
  return parseCredentials(readNamed(file, "The file of credentials").toString(), file);
}

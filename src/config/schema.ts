import { z } from "zod";
import { isNetwork } from "../net/networks.ts";
import { problemOfPrivateNetwork } from "../net/ranges.ts";

/** The whole configuration: one schema, parsed once per role, frozen. Every key has a safe default. */
const positive = z.int().min(1);

/** HOST:PORT; port 0 takes a free one. */
const HOST_AND_PORT = /^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):\d{1,5}$/;
const hostAndPort = z.string().regex(HOST_AND_PORT, "expected HOST:PORT");
/** In both of these the empty text stands for none. */
const hostAndPortOrNone = z
  .string()
  .refine((text) => text === "" || HOST_AND_PORT.test(text), "expected HOST:PORT")
  .default("");
const fileOrNone = z
  .string()
  .regex(/^($|\/)/, "expected the whole path of a file, from / on")
  .default("");
const privateNetwork = z.string().superRefine((cidr, context) => {
  const message = problemOfPrivateNetwork(cidr);
  if (message !== null) context.addIssue({ code: "custom", message, input: cidr });
});
const network = z
  .string()
  .refine(isNetwork, 'expected a CIDR such as "10.0.0.0/8" or "fd00::/8", or an address');
/** One, or a list of them. */
const networks = z
  .union([z.string().transform((one) => [one]), z.array(z.string())], "expected a CIDR or a list of them")
  .pipe(z.array(network))
  .default([]);
/** "1000/s", "300/m"; "0" is no limit. */
const rate = z
  .string()
  .regex(/^(0|[1-9]\d{0,6}\/[smh])$/, 'expected a rate such as "1000/s", "300/m" or "20/h"; "0" is no limit');

export const DEFAULT_RUNS_SUBNET = "10.42.0.0/16";

export const configSchema = z.strictObject({
  http: z
    .strictObject({
      /** Beyond loopback only with a certificate or behind a proxy. */
      listen: hostAndPort.default("127.0.0.1:8080"),
      /** Answers plain HTTP with where to go instead. */
      redirect_listen: hostAndPortOrNone,
      /** PEM, both or neither. */
      tls_cert: fileOrNone,
      tls_key: fileOrNone,
      /** CIDRs of the proxies whose X-Forwarded-* headers are believed. */
      behind_proxy: networks,
      /** Where Prometheus may ask without a key: of this host only. */
      metrics_listen: hostAndPortOrNone,
      max_upload_mb: positive.max(100).default(100),
      max_path_bytes: positive.max(4096).default(4096),
    })
    .prefault({}),
  /** What these say together, src/config/database.ts checks. */
  database: z
    .strictObject({
      /** https://HOST[:PORT] of a libSQL server; empty for a file of this host. */
      url: z.string().default(""),
      /** Root's alone to read. */
      auth_token_file: fileOrNone,
      /** PEM of the authorities to believe instead of the host's. */
      ca_file: fileOrNone,
    })
    .prefault({}),
  /** What these say together, src/config/bucket.ts checks. */
  storage: z
    .strictObject({
      /** Where snapshots lie, and with "s3" everything: in a bucket, for which the local disk is a cache. */
      kind: z.enum(["local", "s3"], 'expected "local" or "s3"').default("local"),
      bucket: z
        .string()
        .regex(
          /^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$/,
          "expected a bucket's name: lower case, digits, - and .",
        )
        .default(""),
      /** https://HOST[:PORT]; empty for Amazon's of the region. */
      endpoint: z.string().default(""),
      region: z
        .string()
        .regex(/^[a-z0-9-]+$/, 'expected a region such as "us-east-1"')
        .default("us-east-1"),
      /** What all objects' names begin with, so that a bucket may hold something else as well. */
      prefix: z
        .string()
        .regex(
          /^([A-Za-z0-9_-][A-Za-z0-9._-]*(\/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$/,
          'expected a path such as "cofferdam/one": letters, digits, - _ and ., no slash at either end',
        )
        .default(""),
      /** https://HOST/BUCKET/…, which every server knows; false is https://BUCKET.HOST/… */
      path_style: z.boolean().default(true),
      /** Asks the server to encrypt what it stores, too (AES256). */
      sse: z
        .union([z.boolean(), z.literal("AES256").transform(() => true)], 'expected true, false or "AES256"')
        .default(false),
      /** Root's alone to read; without it, systemd's credential "s3". */
      credentials_file: fileOrNone,
    })
    .prefault({}),
  exec: z
    .strictObject({
      timeout_s: positive.max(3600).default(30),
      /** Of one sandbox, so of all commands of one namespace together. */
      memory_mb: positive.min(64).default(1024),
      pids: positive.min(64).default(1024),
      /** CPUs that one sandbox may use together. */
      cpus: z.number().min(0.1).default(2),
      /** The largest file that a command may write. */
      file_mb: positive.default(4096),
      command_kb: positive.max(128).default(128),
      output_mb: positive.max(100).default(10),
      per_namespace: positive.max(64).default(16),
      concurrency: positive.default(64),
      queue: z.int().min(0).default(256),
      /** Booted sandboxes that wait for their one tenant. */
      pool: z.int().min(0).max(64).default(2),
      idle_s: positive.default(300),
      /** Warm sandboxes kept at most; the least recently used goes first. */
      warm: positive.default(200),
      directfs: z.boolean().default(false),
    })
    .prefault({}),
  runs: z
    .strictObject({
      /** Each run gets a network of its own out of it: one address is the host's end, one the run's. */
      subnet: z
        .string()
        .regex(/^\d{1,3}(\.\d{1,3}){3}\/\d{1,2}$/, 'expected an IPv4 CIDR such as "10.42.0.0/16"')
        .default(DEFAULT_RUNS_SUBNET),
      /** How long a run's own network's prefix is: /24 leaves room for 256 of them in a /16, /30 for thousands. */
      prefix: z.int().min(16).max(30).default(24),
      /** Of the gateway on each run's host address, for models and git; the port after it is the web proxy's. */
      gateway_port: z.int().min(1024).max(65_534).default(4180),
      /** Runs at once; more wait. */
      live: positive.max(1024).default(32),
      /** Of one workspace. */
      per_workspace: positive.max(1024).default(16),
      /** Runs that wait at most. */
      queue: z.int().min(0).max(10_000).default(256),
      /** Booted sandboxes that wait for a run. */
      pool: z.int().min(0).max(64).default(0),
      /** How long a worktree is kept that was neither merged nor discarded. */
      keep_h: positive.max(8760).default(168),
      /** What is kept of one run's output; of more, the oldest goes. */
      log_mb: positive.max(1024).default(32),
      /** What a run may ask for at most, and gets when it does not ask. */
      timeout_s: positive.max(86_400).default(3600),
      // 512 processes that are all Pythons take 2.2 GiB: with more, a fork bomb fails by calls and not the whole run.
      memory_mb: positive.min(128).default(2560),
      cpus: z.number().min(0.1).default(2),
      pids: positive.min(16).default(512),
      disk_mb: positive.default(4096),
      /** Whether the walls are tried once a day, or so; 0: only at a start. */
      prove_every_h: z.int().min(0).max(8760).default(24),
    })
    .prefault({}),
  egress: z
    .strictObject({
      /** CIDRs of private networks that runs may be let into; never this host's addresses. */
      allow_private: z.array(privateNetwork).default([]),
    })
    .prefault({}),
  providers: z
    .strictObject({
      /** CIDRs that credentials' base_url may lie in; loopback too, for a model server on this host. */
      allow_private: z.array(network).default([]),
      /** JSON with prices of models, over the built-in ones. */
      prices_file: fileOrNone,
    })
    .prefault({}),
  quota: z
    .strictObject({
      /** Namespaces a workspace may have; 0 = no limit, as for all of these. */
      namespaces: z.int().min(0).default(0),
      /** What the files of one namespace may take; of a workspace: all its namespaces together. */
      namespace_mb: z.int().min(0).default(0),
      workspace_mb: z.int().min(0).default(0),
      /** Files and directories. */
      namespace_files: z.int().min(0).default(0),
      workspace_files: z.int().min(0).default(0),
      /** Snapshots of one namespace, and of a workspace. */
      snapshots: z.int().min(0).default(0),
      workspace_snapshots: z.int().min(0).default(0),
      /** Writes and commands stop with 507 when the disk has less than this free; 0: when it is full. */
      disk_floor_mb: z.int().min(0).default(512),
    })
    .prefault({}),
  snapshots: z
    .strictObject({
      /** Snapshots that are older are deleted. */
      retention_days: positive.max(36_500).default(30),
    })
    .prefault({}),
  rate: z
    .strictObject({
      /** Calls of one key. */
      per_key: rate.default("1000/s"),
      /** Calls from one address. */
      per_address: rate.default("2000/s"),
    })
    .prefault({}),
  events: z
    .strictObject({
      retention_days: positive.max(3650).default(7),
      /** Events kept of one workspace at most, the newest; 0 = no limit. */
      max_events: z.int().min(0).default(0),
    })
    .prefault({}),
  webhooks: z
    .strictObject({
      /** Whether an endpoint may be http: instead of https:. */
      allow_http: z.boolean().default(false),
      /** CIDRs of private networks that endpoints may lie in. */
      allow_private: z.array(privateNetwork).default([]),
    })
    .prefault({}),
  /** Of `cofferdam backup`, whose options go before these. */
  backup: z
    .strictObject({
      /** A directory, or s3://BUCKET/PREFIX; with it there is a backup every so many hours, without it none. */
      to: z
        .string()
        .regex(/^($|\/|s3:\/\/)/, 'expected a directory, from / on, or "s3://BUCKET/PREFIX"')
        .default(""),
      every_h: positive.max(8760).default(24),
      /** Backups that are kept, the newest. */
      keep: positive.max(10_000).default(14),
      /** age1…: whoever has its identity can restore without the master key. */
      recipient: z
        .string()
        .regex(/^($|age1)/, "expected a recipient of age's: age1…")
        .default(""),
      /** In S3 mode: also the files' contents, which the bucket has already. */
      include_blobs: z.boolean().default(false),
      /** Of s3://, as in [storage]. */
      endpoint: z.string().default(""),
      region: z
        .string()
        .regex(/^[a-z0-9-]+$/, 'expected a region such as "us-east-1"')
        .default("us-east-1"),
      path_style: z.boolean().default(true),
      credentials_file: fileOrNone,
    })
    .prefault({}),
});

export type Config = Readonly<z.infer<typeof configSchema>>;

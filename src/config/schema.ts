import { z } from "zod";

/** The whole configuration: one schema, parsed once per role, frozen. Every key has a safe default. */
const positive = z.int().min(1);

export const configSchema = z.strictObject({
  http: z
    .strictObject({
      /** HOST:PORT; port 0 takes a free one. Only loopback until TLS exists. */
      listen: z
        .string()
        .regex(/^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):\d{1,5}$/, "expected HOST:PORT")
        .default("127.0.0.1:8080"),
      max_upload_mb: positive.max(100).default(100),
      max_path_bytes: positive.max(4096).default(4096),
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
  quota: z
    .strictObject({
      /** Namespaces a workspace may have; 0 = no limit. */
      namespaces: z.int().min(0).default(0),
      /** Files and directories the API may make in one namespace; 0 = no limit. */
      namespace_files: z.int().min(0).default(0),
      /** Writes stop with 507 when the disk has less than this free. */
      disk_floor_mb: z.int().min(0).default(512),
    })
    .prefault({}),
});

export type Config = Readonly<z.infer<typeof configSchema>>;

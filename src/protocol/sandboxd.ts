import { z } from "zod";
import { namespaceId, runId, sandboxId } from "../ids.ts";

/**
 * api → sandboxd, newline-framed JSON over sandboxd's unix socket. A request names an intent by ids; sandboxd
 * derives every path, name and limit itself. Several requests may be in flight; answers carry the request's `id`.
 */
export const MAX_LINE_BYTES = 64 * 1024;
/** An answer may be longer: `status` names every sandbox. */
export const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

/** What a run has beyond its wall clock to end by itself, once api has asked it to; api adds it when it admits one. */
export const RUN_GRACE_S = 10;

/**
 * How long a sandbox may wait for its run. api replaces a spare that has ended so, and the making of a worktree takes less;
 * whoever had taken api over would have a sandbox without a wall clock by never admitting it.
 */
export const UNADMITTED_S = 3600;

const empty = z.strictObject({});

const poolStatus = z.strictObject({ target: z.int(), ready: z.int(), booting: z.int() });

const sandboxStatus = z.strictObject({
  sandbox: sandboxId.schema,
  /** null while it waits in the pool. */
  namespace: namespaceId.schema.nullable(),
  started_at: z.string(),
  memory_bytes: z.int().nullable(),
});

/** One finding of `doctor`: what was looked at, whether it is well, and what to do when it is not. */
export const check = z.strictObject({
  name: z.string(),
  status: z.enum(["ok", "warn", "fail"]),
  detail: z.string(),
  fix: z.string().nullable(),
});
export type Check = z.infer<typeof check>;

/** A run's two addresses; nothing else is on its network. */
export const runNetwork = z.strictObject({
  index: z.int().min(0),
  /** The host's end, where the gateway answers. */
  host: z.ipv4(),
  /** The sandbox's. */
  run: z.ipv4(),
});
export type RunNetwork = z.infer<typeof runNetwork>;

/**
 * "forged": with an address that is not the run's. "metadata", "dns": to where a cloud's metadata service is, or to port
 * 53. "neighbour": to another run's network. "other": to anything else that is not the run's own gateway or lanes.
 */
export const dropReason = z.enum(["forged", "metadata", "dns", "neighbour", "other"]);
export type DropReason = z.infer<typeof dropReason>;

/** In milliseconds, to where a run's network and filter stood, and from there to where its sandbox ran. */
const bootTimes = z.strictObject({ network_ms: z.int().min(0), boot_ms: z.int().min(0) });
export type BootTimes = z.infer<typeof bootTimes>;

/** What a run's sandbox is made of, for its receipt. */
export const runMake = z.strictObject({
  /** Of its OCI spec, and of the seccomp profile in it. */
  spec_sha256: z.string(),
  seccomp_sha256: z.string(),
  /** The digest of the image that is its root file system. */
  rootfs: z.string(),
  runsc: z.string(),
});
export type RunMake = z.infer<typeof runMake>;

/** What became of a run's sandbox, kept until it is forgotten. */
export const runFate = z.strictObject({
  /** null when it was not seen to exit: it was killed, or lost. */
  exit_code: z.int().nullable(),
  /** "exit": its first process ended. "stopped": by stopRun. "timeout": its wall clock. "oom": its memory. "lost": why. */
  cause: z.enum(["exit", "stopped", "timeout", "oom", "lost"]),
  /** What was lost, for a person; null unless that is the cause. */
  fault: z.string().nullable(),
  /** Milliseconds since 1970. */
  ended_at: z.int(),
  peak_memory_bytes: z.int().nullable(),
  cpu_ms: z.int().nullable(),
  /** Packets that its network's filter dropped, by what they were; those that there were. */
  dropped: z.array(z.strictObject({ reason: dropReason, packets: z.int().min(1) })).optional(),
});
export type RunFate = z.infer<typeof runFate>;

const runState = z.discriminatedUnion("state", [
  z.strictObject({ state: z.literal("starting") }),
  z.strictObject({ state: z.literal("running"), network: runNetwork }),
  z.strictObject({ state: z.literal("ended"), fate: runFate }),
  z.strictObject({ state: z.literal("unknown") }),
]);
export type RunState = z.infer<typeof runState>;

export const operations = {
  /**
   * Boots a run's sandbox with its own network: its first process waits for the launch frame on the FIFO `in`
   * (src/protocol/launch.ts), so nothing of the tenant's runs yet. api has made the worktree and the FIFOs before.
   * Undone wholly when a step fails. `spare`: nobody waits for it, so it boots behind those that somebody waits for. It ends
   * after UNADMITTED_S, unless it is admitted before; "unavailable" when as many are booted as `[runs]` live and pool allow, and some for proofs.
   */
  startRun: {
    args: z.strictObject({ run: runId.schema, spare: z.boolean().optional() }),
    /** `took`: not for a sandbox that was booted before. */
    result: z.strictObject({ network: runNetwork, made_of: runMake, took: bootTimes.optional() }),
  },
  /** Right before the launch: its limits, its wall clock from now on, and the addresses that it reaches by NAT. */
  admitRun: {
    args: z.strictObject({
      run: runId.schema,
      memory_mb: z.int().min(1),
      cpus: z.number().min(0.01),
      pids: z.int().min(1),
      timeout_s: z.int().min(1),
      direct: z.array(z.strictObject({ address: z.ipv4(), port: z.int().min(1).max(65_535) })).max(64),
    }),
    result: empty,
  },
  /** Ends a run's sandbox and removes all of it but its fate; one that is over already is a success. */
  stopRun: { args: z.strictObject({ run: runId.schema }), result: empty },
  inspectRun: { args: z.strictObject({ run: runId.schema }), result: runState },
  /** Every run that sandboxd has something of. */
  listRuns: {
    args: empty,
    result: z.strictObject({
      runs: z.array(z.strictObject({ run: runId.schema, state: z.enum(["starting", "running", "ended"]) })),
    }),
  },
  /** Those that are over and not forgotten; waits for the first one so long. */
  awaitEnds: {
    args: z.strictObject({ timeout_ms: z.int().min(0).max(60_000) }),
    result: z.strictObject({ ended: z.array(runId.schema) }),
  },
  /** Its fate is known to api for good. */
  forgetRun: { args: z.strictObject({ run: runId.schema }), result: empty },

  /**
   * A sandbox with the namespace's volume attached: the one it has, else one of the pool, else a new one.
   * `nonce` proves that the connection which arrived at api's sandbox socket is this sandbox's.
   */
  ensureSandbox: {
    args: z.strictObject({ namespace: namespaceId.schema }),
    result: z.strictObject({
      sandbox: sandboxId.schema,
      nonce: z.string().length(64),
      from_pool: z.boolean(),
    }),
  },
  /** Ends a sandbox and all that runs in it; one that is gone already is a success. */
  stopSandbox: { args: z.strictObject({ sandbox: sandboxId.schema }), result: empty },
  /**
   * What became of a sandbox whose connection ended. Waits up to a second for an end that is under way, so "running"
   * means that it does not end. Its fate is kept for a minute.
   */
  inspectSandbox: {
    args: z.strictObject({ sandbox: sandboxId.schema }),
    result: z.strictObject({ state: z.enum(["running", "gone"]), oom: z.boolean() }),
  },
  /**
   * Stops all that runs in a namespace's sandbox, for a snapshot. `frozen`: it stands still now, and goes on by itself after
   * ten seconds; false when the namespace has no sandbox.
   */
  freezeSandbox: {
    args: z.strictObject({ namespace: namespaceId.schema }),
    result: z.strictObject({ frozen: z.boolean() }),
  },
  /** Lets it go on. `stood`: it stood still from the freeze until now. */
  thawSandbox: {
    args: z.strictObject({ namespace: namespaceId.schema }),
    result: z.strictObject({ stood: z.boolean() }),
  },
  /**
   * Opens a namespace's files with its key, which the kernel keeps until it is locked. Its directory is made by api; the
   * first time, when it is empty, it gets its encryption policy.
   */
  unlockVolume: {
    /** In hexadecimal digits; never to be logged, nor put in an error. */
    args: z.strictObject({ namespace: namespaceId.schema, key: z.string().regex(/^[0-9a-f]{128}$/) }),
    result: z.strictObject({
      /** "plain": the file system can't encrypt, or it is from before it could. "foreign": it is under another key. */
      state: z.enum(["encrypted", "plain", "foreign"]),
    }),
  },
  /**
   * Takes the key of a namespace's files away again; that it is away is a success, and so is a plain volume. "busy": it
   * is gone, but files that are open stay readable until they are closed. "attached": a sandbox has the volume, and
   * nothing was done.
   */
  lockVolume: {
    args: z.strictObject({ namespace: namespaceId.schema }),
    result: z.strictObject({ state: z.enum(["locked", "busy", "attached"]) }),
  },
  /** What was unlocked and not locked since, by an earlier api too. */
  unlockedVolumes: { args: empty, result: z.strictObject({ namespaces: z.array(namespaceId.schema) }) },
  /** What each namespace's sandbox has written to files and the disk does not have yet. */
  writers: {
    args: empty,
    result: z.strictObject({
      sandboxes: z.array(z.strictObject({ namespace: namespaceId.schema, dirty_bytes: z.int() })),
    }),
  },
  status: {
    args: empty,
    result: z.strictObject({
      version: z.string(),
      runsc: z.string(),
      rootfs: z.string(),
      pool: poolStatus,
      sandboxes: z.array(sandboxStatus),
      memory_available_bytes: z.int(),
    }),
  },
  doctor: { args: empty, result: z.strictObject({ checks: z.array(check) }) },
} as const;

export type Operations = typeof operations;
export type OperationName = keyof Operations;
export type OperationArgs<N extends OperationName> = z.infer<Operations[N]["args"]>;
export type OperationResult<N extends OperationName> = z.infer<Operations[N]["result"]>;

/** The line that sandboxd writes first on each sandbox's connection to api's sandbox socket. */
export const sandboxHello = z.strictObject({ sandbox: sandboxId.schema, nonce: z.string().length(64) });

import { readFileSync, realpathSync } from "node:fs";
import { join, resolve } from "node:path";
import { AppError } from "../errors.ts";
import type { InstanceTag } from "../ids.ts";

export const DEFAULT_DATA = "/var/lib/cofferdam";

/**
 * Every path of one instance, in one place. Ownership is part of the design: each role has one directory of its
 * own under `data` and one under `run`; the rest is root's.
 */
export interface Instance {
  readonly inst: InstanceTag;
  readonly data: string;
  readonly configFile: string;
  /** 32 random bytes, root's, 0600; api gets it by a systemd credential or a descriptor. */
  readonly masterKeyFile: string;
  /** What the master key wraps; root's, 0640, for api to read. */
  readonly keyringFile: string;
  /** uid cofferdam, 0700. */
  readonly api: {
    readonly dir: string;
    /** The appliance's own files, under a key of their own where the file system encrypts: src/instance/state.ts. */
    readonly state: string;
    readonly database: string;
    readonly volumes: string;
    /** Of the blob store on the local disk. */
    readonly blobs: string;
    readonly tmp: string;
    /** A directory a run: its worktree and its output. Below `state`, so encrypted with it. */
    readonly runs: string;
  };
  /** uid cofferdam-gw, 0700. */
  readonly gateway: {
    readonly dir: string;
    /** A journal a run. */
    readonly journals: string;
    /** Its private key, sealed under the appliance's secret; root's, 0600, who puts it, opened, at `publishedGatewayKey`. */
    readonly keyFile: string;
  };
  /** root, 0700. Under /run, since nothing of a sandbox outlives a boot, and short, since runsc makes sockets there. */
  readonly sandboxd: {
    readonly dir: string;
    readonly slots: string;
    readonly bundles: string;
    readonly runsc: string;
    /** What sandboxd knows of each run, and leaves when it is over. */
    readonly runs: string;
    /** Where runs' worktrees are mounted; 0711, not below `dir`. */
    readonly worktrees: string;
    /** Which volumes' keys the kernel has. */
    readonly unlocked: string;
  };
  /** The configuration in force, a copy made by root for the roles, which don't see the one it came from. */
  readonly publishedConfig: string;
  /** The same for the gateway. */
  readonly gatewayConfig: string;
  /** Models' prices in force, a copy for each of the two. */
  readonly publishedPrices: string;
  readonly gatewayPrices: string;
  /** The certificate and key in force, likewise; for api alone, 0640. */
  readonly publishedPair: string;
  /** The bucket's credentials in force, likewise. */
  readonly publishedCredentials: string;
  /** The token for the database's server, likewise. */
  readonly publishedServer: string;
  /** The gateway's private key, for a start of it, which takes it away again; 0400, its user's. */
  readonly publishedGatewayKey: string;
  /** root, 0600; whoever starts sandboxes of this instance holds it. */
  readonly lockFile: string;
  readonly sockets: {
    readonly dir: string;
    /** api's HTTP for the admin commands: 0660, root and group cofferdam. */
    readonly admin: string;
    /** Where each sandbox's stdio arrives; api takes a connection only from uid 0. */
    readonly sandboxes: string;
    /** sandboxd's operations; it takes a connection only from uid cofferdam or root. */
    readonly sandboxd: string;
    readonly gateway: string;
    /** api's: a directory a run with the FIFOs `in`, `out` and `err`, which sandboxd gives to its sandbox. */
    readonly runs: string;
  };
}

export function instanceLayout(data: string, inst: string): Instance {
  const tag = instanceTagOf(inst);
  if (tag === null) throw new Error(`${JSON.stringify(inst)} is not an instance's tag`);
  const run = `/run/cofferdam/${inst}`;
  const api = join(data, "api");
  const gateway = join(data, "gateway");
  const sandboxd = join(run, "host");
  return {
    inst: tag,
    data,
    configFile: join(data, "config.toml"),
    masterKeyFile: join(data, "master.key"),
    keyringFile: join(data, "keyring"),
    api: {
      dir: api,
      state: join(api, "state"),
      database: join(api, "state", "cofferdam.db"),
      volumes: join(api, "volumes"),
      blobs: join(api, "blobs"),
      tmp: join(api, "tmp"),
      runs: join(api, "state", "runs"),
    },
    gateway: { dir: gateway, journals: join(gateway, "runs"), keyFile: join(data, "gateway.key") },
    sandboxd: {
      dir: sandboxd,
      slots: join(sandboxd, "slots"),
      bundles: join(sandboxd, "bundles"),
      runsc: join(sandboxd, "runsc"),
      unlocked: join(sandboxd, "unlocked"),
      runs: join(sandboxd, "runs"),
      worktrees: join(run, "worktrees"),
    },
    publishedConfig: join(run, "config", "config.toml"),
    gatewayConfig: join(run, "gateway-config", "config.toml"),
    publishedPrices: join(run, "config", "prices.json"),
    gatewayPrices: join(run, "gateway-config", "prices.json"),
    publishedPair: join(run, "config", "tls.json"),
    publishedCredentials: join(run, "config", "s3.json"),
    publishedServer: join(run, "config", "database.json"),
    publishedGatewayKey: join(run, "gateway", "key"),
    lockFile: join(run, "lock"),
    sockets: {
      dir: run,
      admin: join(run, "api", "admin.sock"),
      sandboxes: join(run, "api", "sandboxes.sock"),
      sandboxd: join(run, "sandboxd", "sandboxd.sock"),
      gateway: join(run, "gateway", "gateway.sock"),
      runs: join(run, "api", "runs"),
    },
  };
}

/** The instance that lives in a data directory. Symlinks on the way to it are resolved here, once. */
export function openInstance(data: string): Instance {
  const dir = realDirectory(data);
  const text = dir === null ? null : readIfThere(join(dir, "inst"));
  if (dir === null || text === null) {
    throw new AppError(
      "not_found",
      `${data} holds no instance of Cofferdam; name the right directory with --data, or make one there with "cofferdam serve --data ${data}".`,
    );
  }
  const inst = text.trim();
  if (instanceTagOf(inst) === null) {
    throw new AppError(
      "conflict",
      `${join(dir, "inst")} must hold four hexadecimal digits; restore it from a backup.`,
    );
  }
  return instanceLayout(dir, inst);
}

/** Not by zod: what a role loads while it is root still is little, and is loaded twice. */
function instanceTagOf(text: string): InstanceTag | null {
  return /^[0-9a-f]{4}$/.test(text) ? (text as InstanceTag) : null;
}

function realDirectory(path: string): string | null {
  try {
    return realpathSync(resolve(path));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

import { join } from "node:path";
import { instanceTag, type InstanceTag } from "./ids.ts";

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
  /** uid cofferdam, 0700. */
  readonly api: {
    readonly dir: string;
    readonly database: string;
    readonly volumes: string;
    readonly tmp: string;
  };
  /** uid cofferdam-gw, 0700. */
  readonly gateway: { readonly dir: string };
  /** root, 0700. Under /run, since nothing of a sandbox outlives a boot, and short, since runsc makes sockets there. */
  readonly sandboxd: {
    readonly dir: string;
    readonly slots: string;
    readonly bundles: string;
    readonly runsc: string;
    readonly logs: string;
  };
  readonly sockets: {
    readonly dir: string;
    /** api's HTTP for the admin commands: 0660, root and group cofferdam. */
    readonly admin: string;
    /** Where each sandbox's stdio arrives; api takes a connection only from uid 0. */
    readonly sandboxes: string;
    /** sandboxd's operations; it takes a connection only from uid cofferdam or root. */
    readonly sandboxd: string;
    readonly gateway: string;
  };
}

export function instanceLayout(data: string, inst: string): Instance {
  const run = `/run/cofferdam/${inst}`;
  const api = join(data, "api");
  const gateway = join(data, "gateway");
  const sandboxd = join(run, "host");
  return {
    inst: instanceTag.parse(inst),
    data,
    configFile: join(data, "config.toml"),
    masterKeyFile: join(data, "master.key"),
    api: {
      dir: api,
      database: join(api, "cofferdam.db"),
      volumes: join(api, "volumes"),
      tmp: join(api, "tmp"),
    },
    gateway: { dir: gateway },
    sandboxd: {
      dir: sandboxd,
      slots: join(sandboxd, "slots"),
      bundles: join(sandboxd, "bundles"),
      runsc: join(sandboxd, "runsc"),
      logs: join(sandboxd, "logs"),
    },
    sockets: {
      dir: run,
      admin: join(run, "api", "admin.sock"),
      sandboxes: join(run, "api", "sandboxes.sock"),
      sandboxd: join(run, "sandboxd", "sandboxd.sock"),
      gateway: join(run, "gateway", "gateway.sock"),
    },
  };
}

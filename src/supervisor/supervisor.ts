import { readFileSync } from "node:fs";
import type { Environment } from "../config/environment.ts";
import { publishGatewayKey } from "../instance/gateway-key.ts";
import type { Instance } from "../instance/instance.ts";
import { openKeyring } from "../instance/keyring.ts";
import { SUPERVISED } from "../kernel/confine.ts";
import type { ConfinedRole } from "../kernel/confinement.ts";
import { self } from "../kernel/self.ts";
import type { Log } from "../log.ts";
import type { ChildOptions } from "./child.ts";
import { superviseRole, type SupervisedRole } from "./role.ts";

export interface SupervisorOptions {
  readonly instance: Instance;
  readonly env: Environment;
  readonly log: Log;
  /** Besides `--data`. */
  readonly apiArgs: readonly string[];
  readonly onOutput: (text: string) => void;
  readonly onReady: (role: ConfinedRole, notices: ReadonlyMap<string, string>, pid: number | null) => void;
  readonly onGivenUp: (why: string) => void;
}

export interface Supervisor {
  reload(): void;
  /** api first, while the others still serve it. */
  stop(): Promise<void>;
}

/** What calls in flight may take (35 s) and then some. */
const API_PATIENCE_MS = 40_000;
const GATEWAY_PATIENCE_MS = 5_000;

/** Starts api and gateway as processes of their own and keeps them running. */
export function startSupervisor(options: SupervisorOptions): Supervisor {
  const { instance, log } = options;
  const { executable, script } = self();
  const env = { ...configuration(options.env), [SUPERVISED]: "1" };
  const giveKey = () => {
    const { secret } = openKeyring(instance.keyringFile, readFileSync(instance.masterKeyFile));
    const fault = publishGatewayKey(instance, secret);
    if (fault !== null) log.error("the gateway starts without its key", { fault });
  };
  const roles = new Map<ConfinedRole, SupervisedRole>();
  const supervise = (
    role: ConfinedRole,
    given: Pick<ChildOptions, "secret" | "prepare">,
    args: readonly string[],
  ): void => {
    const supervised = superviseRole({
      name: role,
      process: {
        command: [executable, ...script, role, "--data", instance.data, ...args],
        env,
        ...given,
      },
      log,
      onOutput: options.onOutput,
      onReady(notices) {
        // After api, which somebody waits for, so as not to slow its start.
        if (role === "api" && !roles.has("gateway"))
          supervise("gateway", { secret: null, prepare: giveKey }, []);
        options.onReady(role, notices, supervised.pid());
      },
      onGivenUp: options.onGivenUp,
    });
    roles.set(role, supervised);
  };
  supervise("api", { secret: () => readFileSync(instance.masterKeyFile) }, options.apiArgs);
  return {
    reload() {
      for (const role of roles.values()) role.reload();
    },
    async stop() {
      await roles.get("api")?.stop(API_PATIENCE_MS);
      await roles.get("gateway")?.stop(GATEWAY_PATIENCE_MS);
    },
  };
}

/** Settings by COFFERDAM_… and the time zone, nothing else of an operator's environment. */
export function configuration(env: Environment): Record<string, string> {
  const passed = Object.entries(env).filter(([name]) => name.startsWith("COFFERDAM_") || name === "TZ");
  return Object.fromEntries(passed.map(([name, value]) => [name, value ?? ""]));
}

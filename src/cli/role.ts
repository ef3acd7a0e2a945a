import { readSync } from "node:fs";
import type { Environment } from "../config/environment.ts";
import type { AppError } from "../errors.ts";
import { openInstance, type Instance } from "../instance/instance.ts";
import { confine, LINK_FD, SUPERVISED } from "../kernel/confine.ts";
import type { ConfinedRole } from "../kernel/confinement.ts";
import { watchLink } from "../kernel/link.ts";
import { createNotifier, type Notifier } from "../kernel/notify.ts";
import { openStderr, type LineWriter } from "../kernel/stderr.ts";
import { createLog, type Log } from "../log.ts";
import { exitCodeOf } from "./failure.ts";
import { catchHangUps } from "./hang-up.ts";

export interface RunningRole {
  /** Where it answers, for who waits for it. */
  readonly url?: string;
  /** Throws when it does not work any more, so that it is killed and started anew. */
  check(): Promise<void>;
  /** Resolves when all is finished that was begun. */
  stop(): Promise<void>;
  /** Without one, a restart is what it takes. */
  reload?: () => Promise<void>;
}

export interface RoleContext {
  readonly instance: Instance;
  readonly env: Environment;
  readonly log: Log;
  readonly stderr: LineWriter;
  /** serve's descriptor, null under systemd. */
  readonly link: number | null;
  /** Asks whoever waits for the start to wait so long from now on. */
  readonly onSlowStart: (forMs: number) => void;
  /** Ends the process, soon: calls under way get their answers. */
  readonly onLost: (error: AppError) => void;
}

export interface ConfinedRoleOptions {
  readonly role: ConfinedRole;
  readonly data: string;
  /** The command line from the subcommand on. */
  readonly args: readonly string[];
  readonly env: Environment;
}

/**
 * The life of a confined role's process. `start` is called once it is confined; import there what that takes, so that
 * the short while before as root loads little and is quick.
 */
export async function runConfined(
  options: ConfinedRoleOptions,
  start: (context: RoleContext) => Promise<RunningRole>,
): Promise<void> {
  const { role, env, args } = options;
  const instance = openInstance(options.data);
  const linked = env[SUPERVISED] !== undefined;
  confine(role, instance, { args, env, linked });
  const stderr = openStderr();
  const log = createLog(role, stderr.write);
  const link = linked ? LINK_FD : null;
  const notify = createNotifier({ env, link });
  await live({ log, notify, link }, () =>
    start({
      instance,
      env,
      log,
      stderr,
      link,
      onSlowStart: (forMs) => notify.starting(forMs),
      onLost(error) {
        log.error(error.message);
        setTimeout(() => process.exit(exitCodeOf(error)), LAST_ANSWERS_MS);
      },
    }),
  );
}

const LAST_ANSWERS_MS = 1_000;
/** Longer than any role takes: api gives calls in flight 35 s. */
const PATIENCE_MS = 40_000;
/** The next serve waits for the port, and a crash loses nothing. */
const ORPHAN_PATIENCE_MS = 2_000;

interface LifeParts {
  readonly log: Log;
  readonly notify: Notifier;
  readonly link: number | null;
}

/** Readiness, signs of life and signals, for every role alike. Ends the process. */
export async function live(
  { log, notify, link }: LifeParts,
  start: () => Promise<RunningRole>,
): Promise<void> {
  const onHangUp = catchHangUps();
  const end = Promise.withResolvers<{ why: string; patienceMs: number }>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => end.resolve({ why: signal, patienceMs: PATIENCE_MS }));
  }
  // A process that is in a state which nobody foresaw is better begun anew.
  for (const event of ["uncaughtException", "unhandledRejection"] as const) {
    process.on(event, (error: unknown) => {
      log.error("ends after an error that nobody handled", { error });
      process.exit(1);
    });
  }
  // serve sends nothing on it but the key, which is read before.
  if (link !== null)
    await watchLink(link, {
      data() {},
      closed: () => end.resolve({ why: "serve is gone", patienceMs: ORPHAN_PATIENCE_MS }),
    });

  const running = await Promise.race([start(), end.promise.then(() => null)]);
  // While it waited for something, say: nothing was begun yet.
  if (running === null) {
    log.info("stopped before it was ready");
    process.exit(0);
  }
  onHangUp(() => void reload(running, notify, log));
  const pulse =
    notify.aliveEveryMs === null
      ? null
      : setInterval(() => void beat(running, notify, log), notify.aliveEveryMs);
  notify.ready(running.url === undefined ? {} : { X_URL: running.url });
  log.info("ready", running.url === undefined ? {} : { url: running.url });

  const { why, patienceMs } = await end.promise;
  notify.stopping();
  log.info("stopping", { why });
  // The pulse goes on: what is still in flight may take longer than the watchdog waits.
  await Promise.race([running.stop(), Bun.sleep(patienceMs)]);
  if (pulse !== null) clearInterval(pulse);
  log.info("stopped");
  process.exit(0);
}

async function beat(running: RunningRole, notify: Notifier, log: Log): Promise<void> {
  try {
    await running.check();
    notify.alive();
  } catch (error) {
    log.error("does not answer itself", { error });
  }
}

async function reload(running: RunningRole, notify: Notifier, log: Log): Promise<void> {
  if (running.reload === undefined) {
    log.warn("takes a changed configuration only when it is started anew");
    return;
  }
  notify.reloading();
  try {
    await running.reload();
    log.info("configuration reloaded");
  } catch (error) {
    log.error("configuration not reloaded; the one before stays in force", { error });
  }
  notify.ready();
}

/** Bytes that serve sends first of all on the link. */
export function readLink(link: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let read = 0; read < length;) {
    const count = readSync(link, bytes, read, length - read, null);
    if (count === 0) throw new Error("serve closed the link before it sent the key");
    read += count;
  }
  return bytes;
}

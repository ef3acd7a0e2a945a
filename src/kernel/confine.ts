import { closeSync, existsSync, fstatSync, openSync, readFileSync } from "node:fs";
import { AppError } from "../errors.ts";
import type { Instance } from "../instance/instance.ts";
import { becomeUser } from "./capabilities.ts";
import { confinementOf, landlockRules, type Confinement, type ConfinedRole } from "./confinement.ts";
import { execve } from "./execve.ts";
import { restrictThread } from "./landlock.ts";
import { cString, NR, syscall } from "./libc.ts";
import { enterRootView } from "./rootview.ts";
import { sealProcess } from "./seccomp.ts";
import { self } from "./self.ts";
import { roleUser } from "./users.ts";
import { verifyConfinement } from "./verify.ts";

/** A socket to `serve`, which has the other end in src/supervisor: the role's key and its signs of life. */
export const LINK_FD = 3;
/** In the environment of what serve starts: there is such a link. */
export const SUPERVISED = "COFFERDAM_SUPERVISED";

export interface ConfineOptions {
  /** The subcommand and what follows it, for the process to start itself again with. */
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Whether LINK_FD is the supervisor's and has to survive. */
  readonly linked: boolean;
}

/**
 * Set for the execve only, so that a confinement that did not take can't loop. It proves nothing: what the process is
 * afterwards is read from the kernel.
 */
const MARKER = "COFFERDAM_CONFINING";
/** Tells one boot of the machine from another. Not looked up by the role itself, which has a /proc of processes only. */
export const BOOT_ID = "BOOT_ID";
/** All of the environment that passes: configuration, and systemd's. */
const PASSED = /^(COFFERDAM_[A-Z0-9_]+|NOTIFY_SOCKET|WATCHDOG_USEC|WATCHDOG_PID|CREDENTIALS_DIRECTORY|TZ)$/;

const PR_SET_DUMPABLE = 4;
const PR_SET_NAME = 15;

/**
 * Makes the process its role, for good, or throws an AppError: fail closed. Started as root, it does not return the
 * first time: it enters its own view of the files, becomes its user, applies Landlock, and executes itself anew,
 * since a thread that runs already can't be confined. The second time it checks with the kernel that all of that
 * holds, closes the door behind it, and returns. Call it before anything else: all until then runs twice, once as root.
 */
export function confine(role: ConfinedRole, instance: Instance, options: ConfineOptions): void {
  try {
    const confinement = confinementOf(role, instance, {
      credentials: options.env["CREDENTIALS_DIRECTORY"],
      notifySocket: options.env["NOTIFY_SOCKET"],
    });
    if (options.env[MARKER] === undefined) enter(role, instance, confinement, options);
    verifyConfinement(role, confinement);
    close(role, confinement);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AppError("unavailable", `${role} does not start, since it cannot be confined: ${reason}`, {
      cause: error,
    });
  }
}

function enter(
  role: ConfinedRole,
  instance: Instance,
  confinement: Confinement,
  options: ConfineOptions,
): never {
  if (process.getuid?.() !== 0) throw new Error("it must be started as root, by serve or by its unit");
  // Looked up before, since /etc is out of sight then.
  const user = roleUser(confinement.user);
  const { executable, script } = self();
  // A unit shows no /proc/sys, and says it itself.
  const bootId = options.env[BOOT_ID] ?? readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  enterRootView(confinement.view, instance.sandboxd.dir);
  replaceStandardFiles();
  becomeUser(user, confinement.capabilities);
  restrictThread(landlockRules(confinement, existsSync));
  const passed = Object.entries(options.env).filter(
    (entry): entry is [string, string] => PASSED.test(entry[0]) && entry[1] !== undefined,
  );
  const env = {
    ...Object.fromEntries(passed),
    LANG: "C.UTF-8",
    PATH: "/nonexistent",
    // Bun in a clone would write what it compiles to a cache.
    BUN_RUNTIME_TRANSPILER_CACHE_PATH: "0",
    // Else Bun has as many threads for file calls as there are cores, and on two cores two slow fsyncs stop all others.
    UV_THREADPOOL_SIZE: "16",
    // Else Bun makes 256 HTTP calls at once, and so many that wait for endpoints which never answer would stop all others.
    BUN_CONFIG_MAX_HTTP_REQUESTS: "16384",
    // The host's certificate authorities besides Bun's own: an operator's may be among them.
    NODE_USE_SYSTEM_CA: "1",
    [BOOT_ID]: bootId,
    [MARKER]: "1",
  };
  execve(executable, [title(role), ...script, ...options.args], env, options.linked ? LINK_FD + 1 : LINK_FD);
}

/**
 * A descriptor keeps the mount that it was opened by: one of the host's /dev/null, or of a log file, could be used to
 * chmod it. Pipes and sockets are all that may stay.
 */
function replaceStandardFiles(): void {
  for (const fd of [0, 1, 2]) {
    if (isStream(fd)) continue;
    const nothing = openSync("/dev/null", "r+");
    syscall("dup2", NR.dup2, nothing, fd);
    if (nothing !== fd) closeSync(nothing);
  }
}

function isStream(fd: number): boolean {
  try {
    const stat = fstatSync(fd);
    return stat.isFIFO() || stat.isSocket();
  } catch {
    return false;
  }
}

function close(role: ConfinedRole, confinement: Confinement): void {
  sealProcess(confinement.socketFamilies);
  // Neither a core file nor another process of the same user shall read its memory. An execve resets it.
  syscall("prctl dumpable", NR.prctl, PR_SET_DUMPABLE, 0);
  syscall("prctl name", NR.prctl, PR_SET_NAME, cString(title(role)));
}

/** How the process shows in ps. */
function title(role: ConfinedRole): string {
  return `cofferdam: ${role}`;
}

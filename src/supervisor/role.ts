import type { Log } from "../log.ts";
import { startChild, type Child, type ChildOptions } from "./child.ts";

export interface SupervisedRoleOptions {
  readonly name: string;
  readonly process: Omit<ChildOptions, "onNotice" | "onOutput">;
  readonly log: Log;
  readonly onOutput: (text: string) => void;
  /** Each time it says that it is ready, with all that it has said. */
  readonly onReady: (notices: ReadonlyMap<string, string>) => void;
  /** It died too often: nothing will start it again. */
  readonly onGivenUp: (why: string) => void;
  readonly watchdogMs?: number;
}

export interface SupervisedRole {
  /** Of the process of the moment; null between two. */
  pid(): number | null;
  /** SIGHUP, once it is ready: what is still starting has no handler yet, and would end. */
  reload(): void;
  /** SIGTERM, and SIGKILL when that took too long. Resolves when it is gone for good. */
  stop(patienceMs: number): Promise<void>;
}

const WATCHDOG_MS = 30_000;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
/** A role that never came up has a cause that does not go away by itself, such as a port that is taken. */
const FAILED_STARTS = 3;
/** What is wrong with its configuration, the same again would not mend; RestartPreventExitStatus in the units. */
const WRONG_INPUT = 2;
/** Deaths within the window that are no accident any more; the units have the same figures. */
const DEATHS = 20;
const DEATHS_WINDOW_MS = 60_000;

/** Keeps one role's process running: it is started anew, after a growing pause, whenever it dies or falls silent. */
export function superviseRole(options: SupervisedRoleOptions): SupervisedRole {
  const { name, log, watchdogMs = WATCHDOG_MS } = options;
  const stopping = Promise.withResolvers<void>();
  const state = { stopped: false, child: null as Child | null, ready: false, reload: false };
  const over = run();

  async function run(): Promise<void> {
    const deaths: number[] = [];
    let failedStarts = 0;
    while (!state.stopped) {
      const { ready, code } = await live();
      if (state.stopped) return;
      if (code === WRONG_INPUT) return giveUp(`${name} cannot go on; its messages above say why`);
      failedStarts = ready ? 0 : failedStarts + 1;
      const now = Date.now();
      deaths.push(now);
      while ((deaths[0] ?? now) < now - DEATHS_WINDOW_MS) deaths.shift();
      if (failedStarts >= FAILED_STARTS) return giveUp(`${name} does not start; its messages above say why`);
      if (deaths.length >= DEATHS)
        return giveUp(`${name} died ${DEATHS} times within ${DEATHS_WINDOW_MS / 1000} s`);
      const pause = Math.min(FIRST_PAUSE_MS * 2 ** (deaths.length - 1), LONGEST_PAUSE_MS);
      await Promise.race([Bun.sleep(pause), stopping.promise]);
    }
  }

  /** One process, from its start to its end, or the attempt. */
  async function live(): Promise<{ ready: boolean; code: number | null }> {
    const notices = new Map<string, string>();
    const silent = () => {
      log.error("a role fell silent and is killed", { of: name });
      state.child?.kill("SIGKILL");
    };
    let watchdog: Timer | undefined;
    const starting = startChild({
      ...options.process,
      env: { ...options.process.env, WATCHDOG_USEC: String(watchdogMs * 1000) },
      onOutput: options.onOutput,
      onNotice(notice, value) {
        clearTimeout(watchdog);
        const extendedMs = notice === "EXTEND_TIMEOUT_USEC" ? Number(value) / 1000 : 0;
        watchdog = setTimeout(silent, Math.max(watchdogMs, extendedMs));
        notices.set(notice, value);
        if (notice !== "READY") return;
        state.ready = true;
        if (state.reload) reload();
        options.onReady(notices);
      },
    });
    const child = await starting.catch((error: unknown) => {
      log.error("a role cannot be started", { of: name, error });
      return null;
    });
    if (child === null) return { ready: false, code: null };
    watchdog ??= setTimeout(silent, watchdogMs);
    state.child = child;
    // Asked to stop while it was being started.
    if (state.stopped) child.kill("SIGTERM");
    const ended = await child.ended;
    Object.assign(state, { child: null, ready: false, reload: false });
    clearTimeout(watchdog);
    const ready = notices.has("READY");
    if (!state.stopped) log.error("a role died", { of: name, ...ended, was_ready: ready });
    return { ready, code: ended.code };
  }

  function reload(): void {
    state.reload = !state.ready;
    if (state.ready) state.child?.kill("SIGHUP");
  }

  function giveUp(why: string): void {
    state.stopped = true;
    options.onGivenUp(why);
  }

  return {
    pid: () => state.child?.pid ?? null,
    reload,
    async stop(patienceMs) {
      state.stopped = true;
      stopping.resolve();
      state.child?.kill("SIGTERM");
      const kill = setTimeout(() => {
        log.error("a role did not stop in time and is killed", { of: name });
        state.child?.kill("SIGKILL");
      }, patienceMs);
      await over;
      clearTimeout(kill);
    },
  };
}

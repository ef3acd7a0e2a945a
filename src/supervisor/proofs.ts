import type { Environment } from "../config/environment.ts";
import type { Instance } from "../instance/instance.ts";
import { self } from "../kernel/self.ts";
import type { Log } from "../log.ts";
import { configuration } from "./supervisor.ts";

/** When what a start brings is over. */
const FIRST_MS = 5 * 60_000;
const EVERY_MS = 15 * 60_000;

export interface ScheduledProofs {
  stop(): Promise<void>;
}

/** Has the walls tried when that is due, as long as the appliance lives: what `cofferdam prove` says of it goes to api. */
export function scheduleProofs({
  instance,
  env,
  log,
}: {
  readonly instance: Instance;
  readonly env: Environment;
  readonly log: Log;
}): ScheduledProofs {
  const state = { child: null as Bun.Subprocess | null };

  async function proveWhenDue(): Promise<void> {
    const { executable, script } = self();
    const child = Bun.spawn([executable, ...script, "prove", "--due", "--quick", "--data", instance.data], {
      env: configuration(env),
      stdio: ["ignore", "ignore", "ignore"],
      cwd: "/",
    });
    state.child = child;
    const code = await child.exited;
    state.child = null;
    if (code !== 0) log.warn("a proof of the walls did not pass; see cofferdam prove", { code });
  }

  function next(afterMs: number): Timer {
    return setTimeout(() => {
      void proveWhenDue()
        .catch((error: unknown) => log.error("the walls can't be tried", { error }))
        .finally(() => (timer = next(EVERY_MS)));
    }, afterMs).unref();
  }
  let timer = next(FIRST_MS);

  return {
    async stop() {
      clearTimeout(timer);
      state.child?.kill();
      await state.child?.exited;
      clearTimeout(timer);
    },
  };
}

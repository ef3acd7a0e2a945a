import { defineCommand } from "citty";
import { environment } from "../config/environment.ts";
import { loadConfig } from "../config/load.ts";
import { AppError } from "../errors.ts";
import { openInstance } from "../instance/instance.ts";
import { createNotifier } from "../kernel/notify.ts";
import { openStderr } from "../kernel/stderr.ts";
import { createLog } from "../log.ts";
import { followPair } from "../tls/publish.ts";
import { dataArgument, libraryArgument, libraryOf } from "./arguments.ts";
import { strict } from "./strict.ts";
import { live } from "./role.ts";

export const sandboxd = defineCommand({
  meta: { name: "sandboxd", description: "The process that starts sandboxes", hidden: true },
  plugins: [strict],
  args: { ...dataArgument, ...libraryArgument },
  async run({ args }) {
    if (process.getuid?.() !== 0)
      throw new AppError("forbidden", "sandboxd has to be started by root, by its unit.");
    const env = environment();
    const log = createLog("sandboxd", openStderr().write);
    await live({ log, notify: createNotifier({ env, link: null }), link: null }, async () => {
      const instance = openInstance(args.data);
      const load = () => loadConfig({ defaultFile: instance.configFile, env }).config;
      const config = load();
      const { startSandboxd } = await import("../sandboxd/sandboxd.ts");
      const ceiling = () => load().runs;
      const running = await startSandboxd({ instance, config, lib: libraryOf(args), log, ceiling });
      const unfollow = followPair({ path: instance.publishedPair, log });
      const stop = () => {
        unfollow();
        return running.stop("keep");
      };
      return { check: () => askStatus(instance.sockets.sandboxd), stop };
    });
  },
});

const TIMEOUT_MS = 10_000;

/** One request and its answer, by the way that api's take. */
async function askStatus(unix: string): Promise<void> {
  const answered = Promise.withResolvers<void>();
  const lost = () => answered.reject(new Error("sandboxd's own socket closed without an answer"));
  const socket = await Bun.connect({
    unix,
    socket: { data: () => answered.resolve(), close: lost, error: lost },
  });
  const late = setTimeout(
    () => answered.reject(new Error("sandboxd's own socket gives no answer")),
    TIMEOUT_MS,
  );
  try {
    socket.write(`${JSON.stringify({ id: 0, op: "status", args: {} })}\n`);
    await answered.promise;
  } finally {
    clearTimeout(late);
    socket.end();
  }
}

import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { defineCommand } from "citty";
import { environment } from "../config/environment.ts";
import { publishCredentials } from "../blobs/s3/publish.ts";
import { bucketOf, credentialsFileOf } from "../config/bucket.ts";
import { databaseServerOf } from "../config/database.ts";
import { listeningOf } from "../config/listen.ts";
import { loadConfig } from "../config/load.ts";
import { publishServer } from "../db/server/publish.ts";
import { AppError } from "../errors.ts";
import { openLogFile } from "../kernel/log-file.ts";
import { openStderr } from "../kernel/stderr.ts";
import { openKeyring } from "../instance/keyring.ts";
import { lockInstance } from "../instance/lock.ts";
import { createLog } from "../log.ts";
import { createInstance, ensureRunDirectories, publishConfig } from "../instance/setup.ts";
import { closeState, openState } from "../instance/state.ts";
import { publishPrices } from "../prices/published.ts";
import { openCgroups } from "../sandboxd/cgroup.ts";
import { cgroupParent } from "../sandboxd/names.ts";
import { ensureFirstKeys, keepKeys } from "../supervisor/firstkeys.ts";
import { scheduleProofs } from "../supervisor/proofs.ts";
import { startSupervisor } from "../supervisor/supervisor.ts";
import { dataArgument, libraryArgument, libraryOf } from "./arguments.ts";
import { catchHangUps } from "./hang-up.ts";
import { subnetOf } from "../sandboxd/network/subnet.ts";
import { strict } from "./strict.ts";
import { readPair } from "../tls/pair.ts";
import { followPair, publishPair } from "../tls/publish.ts";
import { terminal } from "./terminal.ts";

const GROUP_PATIENCE_MS = 2_000;
/** Far more than what it holds of requests and answers is bounded to, over all runs. */
const GATEWAY_MEMORY_BYTES = 4 * 1024 ** 3;

export const serve = defineCommand({
  meta: { name: "serve", description: "Run the whole appliance: api, gateway and sandboxes" },
  plugins: [strict],
  args: {
    ...dataArgument,
    ...libraryArgument,
    listen: {
      type: "string",
      description: "Where the API listens; beyond this host only with TLS or behind a proxy",
      valueHint: "HOST:PORT",
    },
    config: { type: "string", description: "Used instead of the instance's config.toml", valueHint: "FILE" },
    log: {
      type: "string",
      description: "Where the log goes, two files of 64 MiB at most; without it, stderr",
      valueHint: "FILE",
    },
    "keys-file": {
      type: "string",
      description: "Where the first keys are written; without it they are shown",
      valueHint: "FILE",
    },
  },
  async run({ args }) {
    if (process.getuid?.() !== 0) {
      throw new AppError(
        "forbidden",
        "serve has to be started by root: it starts sandboxes, and its roles as users of their own.",
      );
    }
    const env = environment();
    const stderr = openStderr(args.log === undefined ? undefined : openLogFile(resolve(args.log)));
    const log = createLog("serve", stderr.write);
    const onHangUp = catchHangUps();
    const end = Promise.withResolvers<{ why: string; failed: boolean }>();
    const fail = (why: string) => end.resolve({ why, failed: true });
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => end.resolve({ why: signal, failed: false }));
    }

    if (process.pid === 1) {
      log.warn(
        "the first process of a container has to reap what sandboxes leave; start serve below an init (docker run --init)",
      );
    }
    const instance = createInstance(args.data);
    ensureRunDirectories(instance);
    const lock = lockInstance(instance);
    const file = args.config === undefined ? undefined : resolve(args.config);
    const overrides =
      args.listen === undefined ? [] : [{ key: "http.listen", value: args.listen, from: "--listen" }];
    const load = () => loadConfig({ file, defaultFile: instance.configFile, env, overrides }).config;
    /** Checked here, where its name and lines can be told; then the roles get their copy. */
    const readConfig = async () => {
      const config = load();
      const { tls } = listeningOf(config.http);
      bucketOf(config.storage);
      subnetOf(config.runs);
      const server = databaseServerOf(config.database);
      const pair = tls === null ? null : { files: tls, pair: await readPair(tls) };
      publishConfig(instance, file ?? (existsSync(instance.configFile) ? instance.configFile : null));
      publishPair(instance.publishedPair, pair);
      const fault =
        publishCredentials(instance.publishedCredentials, credentialsFileOf(config.storage)) ??
        publishServer(instance.publishedServer, server) ??
        publishPrices(instance, config.providers.prices_file);
      if (fault !== null) throw new AppError("invalid", fault);
      return config;
    };
    const config = await readConfig();
    await openState(instance, openKeyring(instance.keyringFile, readFileSync(instance.masterKeyFile)).secret);

    const cgroups = openCgroups();
    const gatewayGroup = `${cgroupParent(instance)}/gateway`;
    /** As its unit's MemorySwapMax=0 and MemoryMax=4G do. It has no run's credentials yet. */
    const keepFromSwap = (pid: number) => {
      try {
        cgroups.keepFromSwap(gatewayGroup, pid, GATEWAY_MEMORY_BYTES);
      } catch (error) {
        log.warn("the gateway's memory, with runs' credentials, may be swapped out: encrypt swap", { error });
      }
    };
    const ready = { api: Promise.withResolvers<string>(), gateway: Promise.withResolvers<string>() };
    const supervisor = startSupervisor({
      instance,
      env,
      log,
      apiArgs: [
        ...(args.listen === undefined ? [] : ["--listen", args.listen]),
        ...(file === undefined ? [] : ["--config-name", file]),
      ],
      onOutput: (text) => stderr.write(text, false),
      onReady(role, notices, pid) {
        if (role === "gateway" && pid !== null) keepFromSwap(pid);
        ready[role].resolve(notices.get("X_URL") ?? "");
      },
      onGivenUp: fail,
    });
    onHangUp(() => {
      readConfig().then(
        () => supervisor.reload(),
        (error: unknown) => log.error("configuration not reloaded; the one before stays in force", { error }),
      );
    });
    const unfollow = followPair({ path: instance.publishedPair, log });

    const keysFile = args["keys-file"] === undefined ? null : resolve(args["keys-file"]);
    const firstKeys = ready.api.promise.then(async (url) => {
      const made = await ensureFirstKeys(instance.sockets.admin, url, (keys) => keepKeys(keys, keysFile));
      if (!made && keysFile !== null)
        log.info("there are keys already, so none are written", { keys_file: keysFile });
      return url;
    });
    // Its modules load while the roles start.
    const sandboxd = import("../sandboxd/sandboxd.ts").then(({ startSandboxd }) =>
      startSandboxd({
        instance,
        config,
        lib: libraryOf(args),
        log: createLog("sandboxd", stderr.write),
        lock,
        ceiling: () => load().runs,
      }),
    );
    Promise.all([firstKeys, sandboxd, ready.gateway.promise]).then(
      ([url]) =>
        process.stdout.write(
          `Cofferdam is ready: ${url} (data ${instance.data}, instance ${instance.inst})\n`,
        ),
      (error: unknown) => {
        log.error("cannot go on", { error });
        fail(error instanceof Error ? error.message : String(error));
      },
    );

    const proofs = scheduleProofs({ instance, env, log });
    const { why, failed } = await end.promise;
    log.info("stopping", { why });
    unfollow();
    await proofs.stop();
    await supervisor.stop();
    await cgroups
      .remove(gatewayGroup, GROUP_PATIENCE_MS)
      .catch((error: unknown) => log.warn("the gateway's cgroup stays", { error }));
    await sandboxd.then((running) => running.stop("end")).catch(() => {});
    await closeState(instance).catch((error: unknown) => log.error("own files stay unlocked", { error }));
    stderr.flush();
    if (failed) terminal.error(why);
    process.exit(failed ? 1 : 0);
  },
});

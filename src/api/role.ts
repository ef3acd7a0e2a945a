import { APPLIANCE } from "../audit/event.ts";
import { auditKeys } from "../audit/keys.ts";
import { openLedger } from "../audit/ledger.ts";
import { createRetention } from "../audit/retention.ts";
import { openStore } from "../blobs/open.ts";
import { baseUrl, hostAndPort, listeningOf } from "../config/listen.ts";
import type { LoadedConfig } from "../config/load.ts";
import { settingsInForce, waitingForRestart } from "../config/settings.ts";
import { openCredentials } from "../credentials/open.ts";
import { AppError } from "../errors.ts";
import type { Instance } from "../instance/instance.ts";
import { peerCredentials } from "../kernel/peer.ts";
import type { LineWriter } from "../kernel/stderr.ts";
import { statfs } from "../kernel/statfs.ts";
import type { Log } from "../log.ts";
import { createMetrics } from "../metrics/metrics.ts";
import { showPresence } from "../instance/presence.ts";
import { openProofs } from "../runs/proofs.ts";
import type { Check } from "../protocol/sandboxd.ts";
import { refuseFilesElsewhere } from "../remote/host.ts";
import { listenForSandboxes } from "../sandbox/connections.ts";
import { createSandboxdClient } from "../sandbox/sandboxd-client.ts";
import { createGatewayClient } from "../runs/gateway-client.ts";
import { createPolicies } from "../runs/policy.ts";
import { createSecrets } from "../secrets.ts";
import { createFloor } from "../volumes/floor.ts";
import { openPoster } from "../webhooks/post.ts";
import { startWebhooks } from "../webhooks/start.ts";
import { createAtRest } from "./appliance/at-rest.ts";
import { createCertificate } from "./appliance/certificate.ts";
import { createChores } from "./chores.ts";
import { composeApi } from "./compose.ts";
import { createContexts } from "./http/context.ts";
import { execRoutes } from "./exec.ts";
import { fileRoutes } from "./files.ts";
import { openMetricsPort } from "./appliance/metrics.ts";
import { backupCheck } from "./appliance/backup-check.ts";
import { backupRoutes } from "./appliance/backup.ts";
import { operatorExecRoutes } from "./appliance/exec.ts";
import { openRuns } from "./open-runs.ts";
import { openRedirect } from "./http/redirect.ts";
import { startServer } from "./http/server.ts";
import { proofCheck, proofNotices } from "./appliance/proof-check.ts";
import { proofRoutes } from "./appliance/proofs.ts";
import { snapshotAdminRoutes } from "./appliance/snapshots.ts";
import { snapshotRoutes } from "./snapshots.ts";
import { openStorage } from "./storage.ts";
import { reasonOf } from "./appliance/reason.ts";
import { createStatus } from "./appliance/status.ts";
import { openApplianceDatabase } from "./database.ts";
import { createWatch } from "./appliance/watch.ts";

export interface ApiRoleParts {
  readonly instance: Instance;
  /** The appliance's: src/instance/keyring.ts. */
  readonly secret: Uint8Array;
  readonly loaded: LoadedConfig;
  /** What systemd was told to give us of that name; null when nothing. */
  readonly bucketCredential: () => Uint8Array | null;
  readonly log: Log;
  readonly stderr: LineWriter;
  /** Tells one boot of the machine from another. */
  readonly bootId: string;
  /** What holds this process, looked at anew: for `doctor`. */
  readonly confinement: () => Check[];
  /** Asks whoever waits for the start to wait so long from now on. */
  readonly onSlowStart: (forMs: number) => void;
  /** This process has to end, and says why; calls get 503 until then. */
  readonly onLost: (error: AppError) => void;
}

/** Sandboxes are started by root alone. */
const SANDBOXD_UID = 0;
const MIB = 1024 * 1024;
const STOP_PATIENCE_MS = 35_000;
const HEALTH_TIMEOUT_MS = 10_000;
const SETTLE_EVERY_MS = 10 * 60_000;
const CERTIFICATE_EVERY_MS = 5_000;
const UNHELD_EVERY_MS = 60_000;
const USAGE_EVERY_MS = 60_000;
const RETENTION_EVERY_MS = 10 * 60_000;

/** Everything of the api role, from the database up to the listeners. */
export async function startApi(parts: ApiRoleParts) {
  const { instance, secret, loaded, log, stderr, bootId, confinement, onSlowStart } = parts;
  const first = loaded.config;
  const listening = listeningOf(first.http);
  const certificate = listening.tls === null ? null : createCertificate(instance.publishedPair, log);
  const startedAt = Date.now();
  const settings = { current: loaded };
  const failed = (what: string) => (error: unknown) => log.error(what, { cause: error });
  const contexts = createContexts();
  const stopping = new AbortController();
  const presence = await showPresence(instance);
  const secrets = createSecrets(secret);
  const floor = createFloor({
    status: () => statfs(instance.api.dir),
    floorBytes: () => settings.current.config.quota.disk_floor_mb * MIB,
  });
  if (first.storage.kind === "local") refuseFilesElsewhere(instance.api.dir);
  const blobs = await openStore({
    storage: first.storage,
    dir: instance.api.blobs,
    checkRoom: floor.check,
    credentials: { published: instance.publishedCredentials, systemd: parts.bucketCredential },
    onSlowStart,
    log,
  });
  const { db, reload: reloadDatabase } = await openApplianceDatabase({
    instance,
    config: first.database,
    secrets,
    log,
    onSlowStart,
    onLost: parts.onLost,
  });
  const ledger = await openLedger({ db, secrets, log });
  const connections = listenForSandboxes({
    path: instance.sockets.sandboxes,
    trustedUid: SANDBOXD_UID,
    peerUid: (fd) => peerCredentials(fd).uid,
    log,
  });
  const sandboxd = createSandboxdClient({ path: instance.sockets.sandboxd, log });
  const metrics = createMetrics();
  const { meters: meter } = metrics;
  const storage = await openStorage({
    instance,
    first,
    config: () => settings.current.config,
    db,
    ledger,
    secrets,
    store: blobs.store,
    floor,
    sandboxd,
    connections,
    meter,
    bootId,
    log,
  });
  const { volumes, exec, snapshots, captures } = storage;
  const poster = openPoster(() => settings.current.config.webhooks);
  const webhooks = startWebhooks({
    db,
    ledger,
    secrets,
    log,
    ...poster,
    meter,
    retentionDays: () => settings.current.config.events.retention_days,
  });
  const gateway = createGatewayClient({ path: instance.sockets.gateway, log });
  const watch = createWatch({
    log,
    stderr,
    metrics,
    ledger,
    askDatabase: () => db.$client.execute("SELECT 1 FROM heads LIMIT 1"),
    askSandboxd: () => sandboxd.call("status", {}),
    askStore: () => blobs.look(),
    askGateway: () => gateway.call("status", {}).catch(gatewayAway),
    execStats: () => exec.stats(),
    runStats: () => runs.stats(),
    proofState: () => proofs.state(),
    webhookStats: () => webhooks.stats(),
    disk: () => ({
      ...statfs(instance.api.dir),
      floorBytes: settings.current.config.quota.disk_floor_mb * MIB,
    }),
  });
  const atRest = createAtRest({
    state: instance.api.state,
    countVolumes: async () => volumes.countEncrypted(),
  });
  const status = createStatus({
    atRest,
    proofNotices: () => proofNotices(proofs.state()),
    ready: watch.ready,
    webhookStats: () => webhooks.stats(),
    inst: instance.inst,
    listen: () => listen,
    url: () => url,
    startedAt,
    execStats: () => exec.stats(),
    runStats: () => runs.stats(),
    disk: () => statfs(instance.api.dir),
    sandboxd,
    db,
    ledger,
    checkStore: () => blobs.check(),
    checkProof: () => proofCheck(proofs.state(), settings.current.config.runs.prove_every_h),
    checkBackup: async () => backupCheck(db, settings.current.config.backup),
    gateway,
    confinement,
    certificate: () => (certificate === null ? [] : [certificate.check(listening.hostname)]),
  });
  const credentials = openCredentials({
    db,
    ledger,
    gateway,
    settings: () => settings.current.config.providers,
  });
  const policies = createPolicies({ db, ledger });
  const proofs = await openProofs({ db, ledger });
  const opened = openRuns({
    instance,
    config: () => settings.current.config,
    db,
    ledger,
    secrets,
    sandboxd,
    gateway,
    credentials,
    policies,
    worktrees: storage.worktrees,
    floor,
    meter: meter.runs,
    closed: () => proofs.refusal(),
    bootId,
    contexts,
    log,
  });
  const { runs } = opened;
  const composed = composeApi({
    db,
    ledger,
    secrets,
    log,
    contexts,
    encrypted: certificate !== null,
    webhooks,
    credentials,
    policies,
    onCredentialRemoved: (id) => void runs.credentialRemoved(id),
    onKeysEnded: (ids) =>
      void runs.endOfKeys(ids, APPLIANCE).catch(failed("the runs of a revoked key were not stopped")),
    watch,
    namespaceLimit: () => settings.current.config.quota.namespaces,
    rates: () => settings.current.config.rate,
    stopSandbox: async (id) => {
      await runs.endOfNamespace(id, APPLIANCE);
      await storage.stopSandbox(id);
    },
    removeFiles: async (id) => {
      await runs.removeOf(id);
      await storage.remove(id);
    },
    quotas: () => settings.current.config.quota,
    usage: async (id) => volumes.table.survey(id),
    ...status,
    notices: status.notices,
    settings: () => settingsInForce(loaded, settings.current),
    operatorRoutes: (access) => [
      operatorExecRoutes({ access, exec, ledger }),
      snapshotAdminRoutes({ access, snapshots }),
      proofRoutes({ access, proofs }),
      ...opened.operatorRoutes(access),
      backupRoutes({ access, captures, ledger, log, stopping: stopping.signal }),
    ],
    namespaceRoutes: (access, namespaces) => [
      ...opened.routes(access, namespaces),
      fileRoutes({ access, volumes, ledger, maxPathBytes: first.http.max_path_bytes }),
      execRoutes({ access, exec, ledger }),
      snapshotRoutes({ access, snapshots }),
    ],
  });
  const { keys, namespaces, refusalLog, logins, streams } = composed;
  await runs.resume(APPLIANCE);
  const server = startServer({
    ...composed,
    listening,
    pair: certificate?.pair() ?? null,
    adminSocket: instance.sockets.admin,
    contexts,
    onAnswered: watch.onAnswered,
    log,
  });
  const listen = hostAndPort({ hostname: listening.hostname, port: server.port });
  const url = baseUrl(listening, server.port, certificate?.names() ?? []);
  const redirect =
    certificate === null || listening.redirect === null
      ? null
      : openRedirect({ endpoint: listening.redirect, httpsPort: server.port, covers: certificate.covers });
  const metricsPort = listening.metrics === null ? null : openMetricsPort(listening.metrics, watch.page);

  const timers = [keys, namespaces].map(({ lastUse }) => lastUse.start(failed("last use was not stored")));
  const sampling = refusalLog.start();
  void webhooks.resume().catch(failed("webhook deliveries did not begin again"));
  storage.resume();
  const chores = createChores(log);
  chores.every(USAGE_EVERY_MS, "what namespaces use was not stored", async () => volumes.table.flush());
  // What a crash left halfway. Calls need not wait for it: names and keys are free or gone already.
  chores.nowAndEvery(SETTLE_EVERY_MS, "a deletion was not ended", async () => namespaces.resume());
  chores.nowAndEvery(SETTLE_EVERY_MS, "sign-ins that have expired were not removed", async () =>
    logins.sweep(),
  );
  chores.every(SETTLE_EVERY_MS, "what old runs have left was not removed", async () => opened.expire());
  const retention = createRetention({
    db,
    ledger,
    signer: auditKeys(secrets).signer,
    limits: () => settings.current.config.events,
  });
  // The first is not at once: what a crash kept from being delivered goes out before.
  chores.every(RETENTION_EVERY_MS, "old events were not removed", async () => {
    await retention.apply();
  });
  // sandboxd may be away; then it is later.
  chores.every(UNHELD_EVERY_MS, "files were not locked", async () => storage.lockUnheld().catch(() => {}));
  chores.every(CERTIFICATE_EVERY_MS, "the new certificate was not taken", async () => {
    await certificate?.refresh(server.replacePair);
  });

  return {
    /** HOST:PORT with the port that was taken. */
    listen,
    url,

    /** Throws when calls are not answered any more. While it stops, 503 is an answer too. */
    check: () => askHealth(instance.sockets.admin),

    /** Takes new limits, credentials and a new certificate; what else changed waits for a restart, and the log says what. */
    async reload(next: LoadedConfig): Promise<void> {
      const { tls } = listeningOf(next.config.http);
      const fault = tls === null ? null : await certificate?.refresh(server.replacePair);
      if (fault !== null && fault !== undefined) throw new AppError("invalid", fault);
      blobs.reload();
      reloadDatabase();
      const waiting = waitingForRestart(loaded, next);
      settings.current = next;
      exec.reload(next.config);
      runs.reload();
      if (waiting.length > 0) log.warn("these settings wait for a restart", { settings: waiting });
    },

    /** New calls get 503, those in flight end, sandboxes stop. */
    async stop(): Promise<void> {
      const stopped = Promise.all([server.stop(STOP_PATIENCE_MS), redirect?.stop(true), webhooks.stop()]);
      // They would never end by themselves.
      streams.close();
      opened.endStreams();
      stopping.abort();
      await stopped;
      await metricsPort?.stop(true);
      metrics.stop();
      poster.close();
      await exec.close();
      await opened.close();
      await snapshots.stop();
      connections.close();
      sandboxd.close();
      gateway.close();
      chores.stop();
      for (const timer of timers) timer.stop();
      // What is lost with a database that is away, a minute's worth, is no reason not to end in order.
      const last = [keys.lastUse.flush(), namespaces.lastUse.flush(), volumes.table.flush()];
      await Promise.all(
        last.map((flush) => flush.catch(failed("what is stored once a minute was not stored"))),
      );
      volumes.close();
      await sampling.stop();
      await ledger.close();
      await db.close();
      presence[Symbol.dispose]();
    },
  };
}

async function askHealth(unix: string): Promise<void> {
  await fetch("http://role/healthz", { unix, signal: AbortSignal.timeout(HEALTH_TIMEOUT_MS) });
}

function gatewayAway(error: unknown): never {
  const why = error instanceof AppError && error.cause !== undefined ? error.cause : error;
  const where = "its log says why: journalctl -u cofferdam-gateway, or what cofferdam serve writes";
  throw new AppError("unavailable", `it does not answer (${reasonOf(why)}); ${where}`, { cause: error });
}

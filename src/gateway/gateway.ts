import { existsSync } from "node:fs";
import type { Config } from "../config/schema.ts";
import type { Instance } from "../instance/instance.ts";
import { clearSocketPath } from "../kernel/socket-path.ts";
import { roleUser } from "../kernel/users.ts";
import type { Log } from "../log.ts";
import { startCrowd } from "../net/crowd.ts";
import { createDialer } from "../net/dial.ts";
import { createOwnAddresses } from "../net/own.ts";
import { createAddressPolicy } from "../net/policy.ts";
import { isWithin, parseAddress, parseNetworks } from "../net/ranges.ts";
import { createResolver } from "../net/resolve.ts";
import { MAX_ANSWER_BYTES, MAX_LINE_BYTES, operations } from "../protocol/gateway.ts";
import { OperationError } from "../protocol/lines/failure.ts";
import { createAnswerer } from "../protocol/lines/operations.ts";
import { listenForLines } from "../protocol/lines/server.ts";
import type { Check } from "../protocol/sandboxd.ts";
import { keyIdOf, publicKeyOf } from "../protocol/seal.ts";
import type { Prices } from "../prices/prices.ts";
import { createSecrets } from "../secrets.ts";
import { createAdmitted } from "./admitted.ts";
import { createEgress } from "./egress/egress.ts";
import { openJournals } from "./journals.ts";
import { openLanes } from "./lanes.ts";

export interface GatewayOptions {
  readonly instance: Instance;
  readonly config: Config;
  /** null when root could not open it for this start. */
  readonly privateKey: Uint8Array | null;
  readonly log: Log;
  readonly prices: Prices;
  /** What holds this process, as the kernel part sees it. */
  readonly confinement: () => Check[];
}

export interface Gateway {
  /** Throws unless it listens and answers. */
  check(): Promise<void>;
  /** Takes what is read anew: where it may dial. */
  reload(config: Config): Promise<void>;
  stop(): Promise<void>;
}

/** Connections of one run at once: its processes may have so many descriptors each. */
const CONNECTIONS = 1024;

/** The role that runs reach models, git and the web through, and that holds their credentials while they live. */
export function startGateway(options: GatewayOptions): Gateway {
  const { instance, config, privateKey, prices, log, confinement } = options;
  const path = instance.sockets.gateway;
  clearSocketPath(path);
  const settings = { current: config };
  const isThisHosts = createOwnAddresses();
  const subnets = parseNetworks([config.runs.subnet]);
  // Nor is one run let into another's network, whatever the operator allows besides.
  const isOwn = (text: string) => {
    const address = parseAddress(text);
    return isThisHosts(text) || (address !== null && subnets.some((subnet) => isWithin(address, subnet)));
  };
  const resolve = createResolver();
  const providers = createAddressPolicy({
    allowPrivate: () => settings.current.providers.allow_private,
    setting: "[providers] allow_private",
    isOwn,
    mayAllowThisHost: true,
  });
  const web = createAddressPolicy({
    allowPrivate: () => settings.current.egress.allow_private,
    setting: "[egress] allow_private",
    isOwn,
  });
  const dialer = createDialer();
  const journals = openJournals({ dir: instance.gateway.journals, log });
  const admitted =
    privateKey === null
      ? null
      : createAdmitted({
          journals,
          privateKey,
          lanes: openLanes({
            dialer,
            vetting: { policy: providers, resolve },
            secrets: createSecrets(privateKey),
            prices,
            log,
          }),
          egress: createEgress({ vetting: { policy: web, resolve }, log }),
          port: config.runs.gateway_port,
          log,
        });
  const crowd = startCrowd({ log, mostOfOne: CONNECTIONS });

  function open() {
    if (admitted !== null) return admitted;
    throw new OperationError("unavailable", "the gateway was started without its key; its log says why");
  }

  const answer = createAnswerer(
    operations,
    {
      health: async () => ({}),
      status: async () => ({
        ...(admitted?.stats() ?? { runs: 0, requests: 0, tunnels: 0 }),
        checks: [...confinement(), keyCheck(privateKey)],
      }),
      publicKey: async () => {
        open();
        const key = publicKeyOf(privateKey ?? new Uint8Array());
        return { key_id: keyIdOf(key), public_key: Buffer.from(key).toString("base64") };
      },
      grant: async (grant) => {
        await open().grant(grant);
        return {};
      },
      revoke: async ({ run }) => {
        await open().revoke(run);
        return {};
      },
      granted: async () => open().granted(),
      records: async (asked) => ({ records: await open().records(asked) }),
      forget: async ({ run }) => {
        await open().forget(run);
        return {};
      },
    },
    log,
  );
  const server = listenForLines({
    path,
    gid: null,
    maxLineBytes: MAX_LINE_BYTES,
    maxAnswerBytes: MAX_ANSWER_BYTES,
    allowedUids: new Set([0, roleUser("cofferdam").uid]),
    answer,
    onClient() {},
    log,
  });
  if (privateKey === null) log.error("it was started without its key, so it lets no run in");

  return {
    async check() {
      if (!existsSync(path)) throw new Error(`${path} is gone`);
      await answer(JSON.stringify({ id: 0, op: "health", args: {} }), false);
    },
    async reload(next) {
      settings.current = next;
    },
    async stop() {
      server.close();
      await admitted?.stop();
      crowd.stop();
      server.drop();
      dialer.close();
      journals.close();
    },
  };
}

function keyCheck(privateKey: Uint8Array | null): Check {
  const name = "gateway key";
  if (privateKey !== null) {
    const detail = `what runs use is sealed to key ${keyIdOf(publicKeyOf(privateKey))}`;
    return { name, status: "ok", detail, fix: null };
  }
  return {
    name,
    status: "fail",
    detail: "the gateway was started without its key, so no run can be let in",
    fix: "Where the master key is kept elsewhere, give it to the gateway's unit as to api's: docs/operations.md.",
  };
}

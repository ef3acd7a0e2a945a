import type { AnyElysia } from "elysia";
import type { Ledger } from "../audit/ledger.ts";
import { auditKeys } from "../audit/keys.ts";
import { createRefusals } from "../audit/refusals.ts";
import { createEventReader } from "../audit/reader.ts";
import type { Config } from "../config/schema.ts";
import type { Setting } from "../config/settings.ts";
import type { Credentials } from "../credentials/credentials.ts";
import type { Database } from "../db/open.ts";
import type { CredentialId, KeyId, NamespaceId } from "../ids.ts";
import { createCalls } from "../keys/calls.ts";
import { createKeys } from "../keys/keys.ts";
import { createNamespaces, type Namespaces } from "../keys/namespaces.ts";
import { createSetup } from "../keys/setup.ts";
import { createWorkspaces } from "../keys/workspaces.ts";
import type { Log } from "../log.ts";
import type { Check } from "../protocol/sandboxd.ts";
import type { Policies } from "../runs/policy.ts";
import type { Secrets } from "../secrets.ts";
import { createConfirmations } from "../signin/confirmation.ts";
import { createLogins } from "../signin/logins.ts";
import type { UsageTable } from "../volumes/usage-table.ts";
import type { StartedWebhooks } from "../webhooks/start.ts";
import { adminRoutes } from "./appliance/admin.ts";
import { createApp } from "./http/app.ts";
import { auditRoutes } from "./appliance/audit.ts";
import { createAccess, type Access } from "./auth.ts";
import { credentialRoutes } from "./credentials.ts";
import type { Contexts } from "./http/context.ts";
import { devicePage } from "./device/page.ts";
import { deviceRoutes } from "./device/device.ts";
import { createEventStreams } from "./events/stream.ts";
import { applianceEventRoutes, eventRoutes } from "./events/events.ts";
import { healthRoutes } from "./appliance/health.ts";
import { keyRoutes } from "./keys.ts";
import { createLimits } from "./http/limits.ts";
import { loginRoutes, pendingLoginRoutes } from "./device/logins.ts";
import { metricsRoutes } from "./appliance/metrics.ts";
import { meRoutes } from "./me.ts";
import { namespaceRoutes } from "./namespaces.ts";
import { policyRoutes } from "./policy.ts";
import { recordRefusals } from "./http/refused.ts";
import type { Status } from "./appliance/status.ts";
import type { Watch } from "./appliance/watch.ts";
import { usageRoutes } from "./usage.ts";
import { webhookRoutes } from "./webhooks.ts";

export interface ComposeParts {
  readonly db: Database;
  /** Every change of an account is one of its. */
  readonly ledger: Ledger;
  readonly secrets: Secrets;
  readonly log: Log;
  readonly contexts: Contexts;
  /** Whether the TCP listener does TLS. */
  readonly encrypted?: boolean;
  readonly webhooks: StartedWebhooks;
  readonly namespaceLimit: () => number;
  readonly rates: () => Config["rate"];
  readonly stopSandbox: (id: NamespaceId) => Promise<void>;
  readonly removeFiles: (id: NamespaceId) => Promise<void>;
  readonly quotas: () => Config["quota"];
  /** What the files of a workspace's namespaces take. */
  readonly usage: UsageTable["survey"];
  readonly watch: Pick<Watch, "ready" | "page">;
  readonly status: () => Promise<Status>;
  readonly doctor: () => Promise<Check[]>;
  /** Sentences on what works, but not as it should. */
  readonly notices: () => readonly string[];
  readonly settings: () => Setting[];
  readonly credentials: Credentials;
  readonly policies: Policies;
  /** Runs that use it lose it. */
  readonly onCredentialRemoved: (id: CredentialId) => void;
  /** Runs that they started end with them. */
  readonly onKeysEnded: (ids: readonly KeyId[]) => void;
  /** The routes of the namespaces: files, exec, runs. */
  readonly namespaceRoutes: (access: Access, namespaces: Namespaces) => readonly AnyElysia[];
  /** More for the operator alone. */
  readonly operatorRoutes: (access: Access) => readonly AnyElysia[];
}

/** The accounts, and the routes of both listeners over them. What is only on the admin socket is not in the other's app at all. */
export function composeApi(parts: ComposeParts) {
  const { db, ledger, secrets, log, contexts, encrypted = false } = parts;
  const { headKey, signer } = auditKeys(secrets);
  const calls = createCalls();
  const workspaces = createWorkspaces({ db, ledger });
  const keys = createKeys({ db, ledger, calls, onEnded: parts.onKeysEnded });
  const namespaces = createNamespaces({
    db,
    ledger,
    calls,
    keys,
    secrets,
    limit: parts.namespaceLimit,
    stopSandbox: parts.stopSandbox,
    removeFiles: parts.removeFiles,
  });
  const logins = createLogins({ db, ledger, secrets, keys, namespaces });
  const confirmations = createConfirmations({ secrets });
  const { credentials, policies } = parts;
  const setup = createSetup({ db, ledger, keys, workspaces });

  const reader = createEventReader({ db, ledger });
  const streams = createEventStreams({ reader, ledger, log });

  const shared = (access: Access): AnyElysia[] => [
    keyRoutes({ access, keys, namespaces }),
    namespaceRoutes({ access, namespaces, usage: parts.usage }),
    usageRoutes({ access, db, namespaces, usage: parts.usage, quotas: parts.quotas }),
    loginRoutes({ access, logins }),
    webhookRoutes({ access, webhooks: parts.webhooks }),
    credentialRoutes({ access, credentials, onRemoved: parts.onCredentialRemoved }),
    policyRoutes({ access, policies }),
    eventRoutes({ access, namespaces, reader, streams }),
    ...parts.namespaceRoutes(access, namespaces),
  ];
  const { ready, page } = parts.watch;
  const limits = createLimits({ rates: parts.rates });
  const refusals = createRefusals({ ledger, log });
  const account = { keys, namespaces, workspaces, calls, contexts, limits };
  const access = createAccess({ ...account, operator: false });
  const operator = createAccess({ ...account, operator: true });
  const { status, doctor, settings } = parts;

  return {
    app: createApp({
      log,
      contexts,
      encrypted,
      routes: [
        healthRoutes({ ready, detailed: null }),
        meRoutes({ access }),
        deviceRoutes({ logins, contexts }),
        devicePage({ access, logins, confirmations, contexts }),
        ...shared(access),
      ],
    }),
    adminApp: createApp({
      log,
      contexts,
      routes: [
        healthRoutes({ ready, detailed: () => ({ notices: parts.notices() }) }),
        metricsRoutes({ access: operator, page }),
        adminRoutes({ access: operator, workspaces, setup, status, doctor, settings }),
        applianceEventRoutes({ access: operator, reader, streams }),
        auditRoutes({ access: operator, db, ledger, headKey, signer }),
        pendingLoginRoutes({ access: operator, logins }),
        ...parts.operatorRoutes(operator),
        ...shared(operator),
      ],
    }),
    limits,
    refusalLog: refusals,
    onRefused: recordRefusals(refusals),
    keys,
    namespaces,
    workspaces,
    logins,
    streams,
  };
}

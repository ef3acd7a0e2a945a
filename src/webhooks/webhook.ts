import type { webhooks as table } from "../db/schema.ts";
import type { WebhookId, WorkspaceId } from "../ids.ts";

export type WebhookRow = typeof table.$inferSelect;

/** As its owner sees it. */
export interface Webhook {
  readonly id: WebhookId;
  readonly workspaceId: WorkspaceId;
  readonly url: string;
  readonly events: readonly string[];
  readonly namespace: string | null;
  readonly description: string | null;
  readonly enabled: boolean;
  readonly disabledReason: string | null;
  readonly createdAt: number;
  readonly lastDelivery: {
    readonly ok: boolean;
    readonly status: number | null;
    readonly error: string | null;
    readonly at: number;
  } | null;
}

export interface NewWebhook {
  readonly url: string;
  readonly events: readonly string[];
  readonly namespace: string | null;
  readonly description: string | null;
}

export function webhookOf(row: WebhookRow): Webhook {
  const { lastDeliveryAt, lastDeliveryOk, lastDeliveryStatus, lastDeliveryError } = row;
  return {
    id: row.id,
    workspaceId: row.workspaceId,
    url: row.url,
    events: row.events,
    namespace: row.namespace,
    description: row.description,
    enabled: row.state === "enabled",
    disabledReason: row.disabledReason,
    createdAt: row.createdAt,
    lastDelivery:
      lastDeliveryAt === null
        ? null
        : {
            ok: lastDeliveryOk === true,
            status: lastDeliveryStatus,
            error: lastDeliveryError,
            at: lastDeliveryAt,
          },
  };
}

/** For logs and the audit log: some receivers want a secret in the query, or as the path's last part. */
export function maskedUrl(url: string): string {
  const { origin, pathname, search } = new URL(url);
  const path = pathname.replace(/[^/]{16,}$/, "…");
  return `${origin}${path}${search === "" ? "" : "?…"}`;
}

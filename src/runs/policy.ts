import { eq } from "drizzle-orm";
import { z } from "zod";
import type { Origin } from "../audit/event.ts";
import type { Ledger } from "../audit/ledger.ts";
import type { Database } from "../db/open.ts";
import { policies as table } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import type { WorkspaceId } from "../ids.ts";
import { parseAllowed, parseDirect } from "./hosts.ts";
import { runLimits } from "./grants.ts";

/** A text that `parse` takes; what it says is shown to the caller. */
const parsed = (parse: (text: string) => unknown) =>
  z.string().superRefine((text, context) => {
    try {
      parse(text);
    } catch (error) {
      const message = error instanceof AppError ? error.message : "is not well formed";
      context.addIssue({ code: "custom", message, input: text });
    }
  });

const patterns = z.array(z.string().min(1).max(300)).max(500);

/** What all runs of a workspace may be at most. Every field has no ceiling of its own until an admin sets one. */
export const policySchema = z.strictObject({
  /** Names, `*` at an end standing for any rest; null: every model. */
  models: patterns.nullable().default(null),
  /** Hosts that egress.allow may name; null: any that the address policy lets pass. */
  hosts: z.array(parsed(parseAllowed)).max(500).nullable().default(null),
  /** ADDRESS:PORT that egress.direct may name; null: any. */
  direct: z.array(parsed(parseDirect)).max(500).nullable().default(null),
  /** owner/repo, or owner/*; null: all that the credential opens. */
  repositories: patterns.nullable().default(null),
  limits: runLimits.partial().prefault({}),
  /** Runs of the workspace at once; more wait. */
  concurrent_runs: z.int().min(0).nullable().default(null),
  /** Dollars, of one run and of all that began on one day (UTC). */
  usd_per_run: z.number().min(0).nullable().default(null),
  usd_per_day: z.number().min(0).nullable().default(null),
  /** LLM requests a minute, of one run. */
  requests_per_minute: z.int().min(1).nullable().default(null),
  /** What one run may send and receive by egress.allow, in MiB. */
  egress_mb: z.int().min(1).nullable().default(null),
  /** Whether a run may ask for the provider's own tools: web search, code execution, URLs that it fetches. */
  provider_tools: z.boolean().default(false),
  /** Whether the audit log holds what is said to models and what they answer. */
  record_content: z.boolean().default(false),
});
export type Policy = z.infer<typeof policySchema>;

export type Policies = ReturnType<typeof createPolicies>;

export interface PoliciesParts {
  readonly db: Database;
  readonly ledger: Pick<Ledger, "change">;
  readonly now?: () => number;
}

export function createPolicies({ db, ledger, now = Date.now }: PoliciesParts) {
  return {
    async of(workspaceId: WorkspaceId): Promise<Policy> {
      const [row] = await db.select().from(table).where(eq(table.workspaceId, workspaceId));
      return policySchema.parse(row?.policy ?? {});
    },

    /** In whole: what is not said has no ceiling. Runs that began keep what they were given. */
    async set(workspaceId: WorkspaceId, policy: Policy, origin: Origin): Promise<void> {
      const values = { workspaceId, policy, changedAt: now() };
      const limits = Object.entries(policy.limits).map(([name, value]) => [name, value ?? null] as const);
      const data = { policy: { ...policy, limits: Object.fromEntries(limits) } };
      await ledger.change(async () => ({
        statements: [
          db
            .insert(table)
            .values(values)
            .onConflictDoUpdate({ target: table.workspaceId, set: { policy, changedAt: values.changedAt } }),
        ],
        events: [{ chain: workspaceId, type: "policy.changed", namespace: null, data, origin }],
        result: undefined,
      }));
    },
  };
}

/** Whether one of the patterns stands for the name: itself, or with `*` at its end all that begins so. */
export function matches(list: readonly string[], name: string): boolean {
  return list.some((pattern) =>
    pattern.endsWith("*") ? name.startsWith(pattern.slice(0, -1)) : name === pattern,
  );
}

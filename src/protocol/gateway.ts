import { z } from "zod";
import { credentialId, runId } from "../ids.ts";
import { check } from "./sandboxd.ts";

/**
 * api → gateway, newline-framed JSON over the gateway's unix socket, as to sandboxd. Money is in billionths of a dollar
 * (so a price per million tokens in thousandths of a dollar is exact for one token), times are milliseconds since 1970.
 */
export const MAX_LINE_BYTES = 1024 * 1024;
export const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

const nano = z.int().min(0);
const empty = z.strictObject({});

const gatewayStatus = z.strictObject({
  /** Let in now. */
  runs: z.int(),
  /** Under way: requests, and connections of the web proxy. */
  requests: z.int(),
  tunnels: z.int(),
  checks: z.array(check),
});
export type GatewayStatus = z.infer<typeof gatewayStatus>;

/** What all lanes know a credential by: `sealed` opens with the gateway's key alone (src/protocol/seal.ts). */
const sealedCredential = z.strictObject({ credential: credentialId.schema, sealed: z.base64() });

export const dialect = z.enum(["anthropic", "openai"]);
export type Dialect = z.infer<typeof dialect>;

export const llmGrant = sealedCredential.extend({
  dialect,
  base_url: z.string(),
  /** Exact names; null: whatever the provider has. */
  models: z.array(z.string()).nullable(),
  max_usd_nano: nano.nullable(),
  max_output_tokens: z.int().min(0).nullable(),
  max_requests: z.int().min(0).nullable(),
  /** Web search, code execution and the like that the provider does itself, and URLs that it fetches. */
  provider_tools: z.boolean(),
  requests_per_minute: z.int().min(1).nullable(),
  /** Whether requests' and answers' text goes into the records. */
  record_content: z.boolean(),
});
export type LlmGrant = z.infer<typeof llmGrant>;

export const gitGrant = sealedCredential.extend({
  kind: z.enum(["github-app", "git-token"]),
  /** https://github.com: what a run writes, and what is rewritten to the gateway. */
  git_url: z.string(),
  api_url: z.string().nullable(),
  repositories: z.array(
    z.strictObject({
      /** owner/repo, in lower case. */
      name: z.string(),
      access: z.enum(["read", "write"]),
      branches: z.array(z.string()),
      /** Whether a matching branch that was there before may be moved. */
      update: z.boolean(),
    }),
  ),
});
export type GitGrant = z.infer<typeof gitGrant>;

export const egressGrant = z.strictObject({
  /** A host, or `*.host` for those below it. */
  allow: z.array(z.strictObject({ host: z.string(), port: z.int().min(1).max(65_535) })),
  max_bytes: z.int().min(0).nullable(),
  max_connections: z.int().min(1),
});
export type EgressGrant = z.infer<typeof egressGrant>;

export const runGrant = z.strictObject({
  run: runId.schema,
  /** The run's network: where the gateway listens for it, and whom it believes there. */
  host: z.ipv4(),
  peer: z.ipv4(),
  /** SHA-256 of its token, in hex: the token itself is the run's alone. */
  token_sha256: z.string().regex(/^[0-9a-f]{64}$/),
  deadline: z.int(),
  llm: z.array(llmGrant),
  git: gitGrant.nullable(),
  egress: egressGrant.nullable(),
});
export type RunGrant = z.infer<typeof runGrant>;

const record = z.strictObject({ run: runId.schema, seq: z.int().min(1), at: z.int() });

/** What a lane did for a run, or refused it: one line of its journal, and one event of the audit log. Never a secret. */
export const gatewayRecord = z.discriminatedUnion("kind", [
  record.extend({
    kind: z.literal("llm"),
    credential: credentialId.schema,
    model: z.string(),
    route: z.string(),
    /** Of the provider's answer; null when there was none. */
    status: z.int().nullable(),
    input_tokens: z.int(),
    output_tokens: z.int(),
    cache_read_tokens: z.int(),
    cache_write_tokens: z.int(),
    usd_nano: nano,
    /** How much of it is a guess, because the answer was cut or a gateway died meanwhile. */
    estimated: z.boolean(),
    first_byte_ms: z.int().nullable(),
    duration_ms: z.int(),
    /** With record_content only, each cut. */
    content: z.strictObject({ request: z.string(), answer: z.string() }).nullable(),
  }),
  record.extend({
    kind: z.literal("git"),
    credential: credentialId.schema,
    repository: z.string(),
    action: z.enum(["fetch", "push"]),
    /** Of a push, those that it may have changed; one that the gateway refuses is a denial. */
    refs: z.array(
      z.strictObject({
        ref: z.string(),
        old: z.string(),
        new: z.string(),
        /** The server's word; null when it was not heard, since a connection or the gateway broke. */
        accepted: z.boolean().nullable(),
      }),
    ),
    bytes: z.int(),
    duration_ms: z.int(),
  }),
  record.extend({
    kind: z.literal("egress"),
    host: z.string(),
    port: z.int(),
    /** 1, or 0 when it goes on with one that an earlier record has begun: long ones have several. */
    connections: z.int().min(0),
    bytes_sent: z.int(),
    bytes_received: z.int(),
    duration_ms: z.int(),
  }),
  record.extend({
    kind: z.literal("denied"),
    lane: z.enum(["llm", "git", "egress", "network"]),
    /** Few and fixed, so that they can be counted: "budget", "model", "token", "branch", "host", "address"… */
    reason: z.string(),
    detail: z.string(),
    /** How many times within some seconds. */
    count: z.int().min(1),
  }),
]);
export type GatewayRecord = z.infer<typeof gatewayRecord>;

export const operations = {
  health: { args: empty, result: empty },
  status: { args: empty, result: gatewayStatus },
  /** What secrets are sealed to. */
  publicKey: { args: empty, result: z.strictObject({ key_id: z.string(), public_key: z.base64() }) },
  /** Lets a run in, or changes what it may. What it has spent so far the journal knows, also after a restart. */
  grant: { args: runGrant, result: empty },
  /** Ends all that a run has under way, and its git tokens; one that is not let in is a success. */
  revoke: { args: z.strictObject({ run: runId.schema }), result: empty },
  /** Who is let in now, and by which start of the gateway: after another, nobody is. */
  granted: { args: empty, result: z.strictObject({ start: z.string(), runs: z.array(runId.schema) }) },
  /**
   * The records after those that api has, of all its runs; waits for the first one so long. `unavailable` when this is
   * another start than the one given: a restart between two calls is seen by nothing else.
   */
  records: {
    args: z.strictObject({
      start: z.string().nullable(),
      after: z.array(z.strictObject({ run: runId.schema, seq: z.int().min(0) })).max(4096),
      timeout_ms: z.int().min(0).max(60_000),
    }),
    result: z.strictObject({ records: z.array(gatewayRecord) }),
  },
  /** api has all of a run's records for good. */
  forget: { args: z.strictObject({ run: runId.schema }), result: empty },
} as const;

export type Operations = typeof operations;
export type OperationName = keyof Operations;
export type OperationArgs<N extends OperationName> = z.infer<Operations[N]["args"]>;
export type OperationResult<N extends OperationName> = z.infer<Operations[N]["result"]>;

import type { Config } from "../config/schema.ts";
import type { Credential, CredentialKind } from "../credentials/credential.ts";
import type { Credentials } from "../credentials/credentials.ts";
import { AppError } from "../errors.ts";
import type { WorkspaceId } from "../ids.ts";
import type { AddressPolicy } from "../net/policy.ts";
import type { Dialect, EgressGrant } from "../protocol/gateway.ts";
import type { RunGrants, RunLimits } from "./grants.ts";
import { covers, parseAllowed, parseDirect } from "./hosts.ts";
import { matches, type Policy } from "./policy.ts";
import type { RunRequest } from "./request.ts";

export interface ResolveParts {
  readonly credentials: Pick<Credentials, "named">;
  /** Of egress.direct: what the gateway does not dial itself. */
  readonly addresses: Pick<AddressPolicy, "judge">;
  readonly runs: () => Config["runs"];
  /** Whether what a model costs is known. */
  readonly hasPrice: (model: string) => boolean;
}

export interface Resolved {
  readonly grants: RunGrants;
  readonly limits: RunLimits;
}

const NANO = 1_000_000_000;
const MIB = 1024 * 1024;
const MAX_CONNECTIONS = 64;

const DIALECTS = { anthropic: "anthropic", openai: "openai" } as const satisfies Partial<
  Record<CredentialKind, Dialect>
>;

/**
 * What a request comes to for this namespace under the workspace's policy: what it does not say is what the policy leaves,
 * what it asks for beyond that is refused, and nothing is granted that it does not ask for.
 */
export function createResolver({ credentials, addresses, runs, hasPrice }: ResolveParts) {
  return async (
    { workspaceId, namespace }: { readonly workspaceId: WorkspaceId; readonly namespace: string },
    request: RunRequest,
    policy: Policy,
  ): Promise<Resolved> => {
    const credential = (name: string) => credentials.named(workspaceId, namespace, name);
    const asked = request.llm ?? [];
    const usdNano = moneyOf(asked, policy);
    const llm = await Promise.all(
      asked.map(async (one, at) => llmOf(one, await credential(one.credential), policy, usdNano[at] ?? null)),
    );
    const twice = llm.find(({ dialect }, at) => llm.findIndex((one) => one.dialect === dialect) !== at);
    if (twice !== undefined) {
      throw invalid("llm", `has two grants for ${twice.dialect}; a run has one of a kind`);
    }
    const git =
      request.git === undefined ? null : gitOf(request.git, await credential(request.git.credential), policy);
    return {
      grants: { llm, git, egress: egressOf(request, policy), direct: directOf(request, policy) },
      limits: limitsOf(request.limits, policy),
    };
  };

  function llmOf(
    asked: NonNullable<RunRequest["llm"]>[number],
    { id, kind, name, settings }: Credential,
    policy: Policy,
    usdNano: number | null,
  ): RunGrants["llm"][number] {
    if (kind !== "anthropic" && kind !== "openai") {
      throw invalid("llm.credential", `"${name}" is a ${kind}, not one for models`);
    }
    const models = modelsOf(asked.models, policy);
    const unpriced = usdNano === null ? undefined : models?.find((model) => !hasPrice(model));
    if (unpriced !== undefined) {
      throw invalid(
        "llm.models",
        `${unpriced} has no known price, which max_usd needs; add it to [providers] prices_file`,
      );
    }
    if (asked.provider_tools === true && !policy.provider_tools)
      throw beyond("llm.provider_tools", "provider_tools");
    return {
      credential: id,
      dialect: DIALECTS[kind],
      base_url: settings["base_url"] ?? "",
      models,
      max_usd_nano: usdNano,
      max_output_tokens: asked.max_output_tokens ?? null,
      max_requests: asked.max_requests ?? null,
      provider_tools: asked.provider_tools ?? false,
      requests_per_minute: policy.requests_per_minute,
      record_content: policy.record_content,
    };
  }

  function directOf({ egress }: RunRequest, policy: Policy): RunGrants["direct"] {
    const ceiling = policy.direct?.map(parseDirect);
    return (egress?.direct ?? []).map((text) => {
      const wanted = inField("egress.direct", () => parseDirect(text));
      if (
        ceiling?.some(({ address, port }) => address === wanted.address && port === wanted.port) === false
      ) {
        throw beyond("egress.direct", "direct", text);
      }
      const judgement = addresses.judge(wanted.address);
      if (!judgement.allowed) throw invalid("egress.direct", `${wanted.address} is ${judgement.what}`);
      return wanted;
    });
  }

  function limitsOf(asked: RunRequest["limits"], policy: Policy): RunLimits {
    const most = runs();
    const of = (field: keyof RunLimits) => {
      const ceiling = Math.min(most[field], policy.limits[field] ?? Infinity);
      const wanted = asked[field] ?? ceiling;
      if (wanted > ceiling)
        throw invalid(`limits.${field}`, `${wanted} is more than the ${ceiling} that runs may have here`);
      return wanted;
    };
    return {
      timeout_s: of("timeout_s"),
      memory_mb: of("memory_mb"),
      cpus: of("cpus"),
      pids: of("pids"),
      disk_mb: of("disk_mb"),
    };
  }
}

/**
 * What each grant may spend, in billionths; null: whatever it takes. The policy's dollars are for all of a run's together,
 * and those that ask for none share what the others leave.
 */
function moneyOf(asked: NonNullable<RunRequest["llm"]>, { usd_per_run }: Policy): readonly (number | null)[] {
  const wanted = asked.map(({ max_usd }) => (max_usd === undefined ? null : Math.round(max_usd * NANO)));
  if (usd_per_run === null) return wanted;
  const said = wanted.reduce<number>((sum, one) => sum + (one ?? 0), 0);
  const left = Math.round(usd_per_run * NANO) - said;
  if (left < 0) {
    throw new AppError(
      "forbidden",
      `The field "llm.max_usd": ${said / NANO} is more than the ${usd_per_run} of the workspace's policy ("usd_per_run").`,
    );
  }
  const share = Math.floor(left / wanted.filter((one) => one === null).length);
  return wanted.map((one) => one ?? share);
}

/** Exact names for the gateway. The policy's patterns narrow those of the request, and alone can't be listed. */
function modelsOf(asked: readonly string[] | undefined, { models }: Policy): string[] | null {
  if (models === null) return asked === undefined ? null : [...asked];
  if (asked === undefined) {
    const pattern = models.find((model) => model.endsWith("*"));
    if (pattern === undefined) return [...models];
    throw invalid("llm.models", `is missing; the workspace's policy has patterns (${pattern}), so say which`);
  }
  const other = asked.find((model) => !matches(models, model));
  if (other !== undefined) throw beyond("llm.models", "models", other);
  return [...asked];
}

function gitOf(
  asked: NonNullable<RunRequest["git"]>,
  { id, kind, name, settings }: Credential,
  { repositories }: Policy,
): RunGrants["git"] {
  if (kind !== "github-app" && kind !== "git-token") {
    throw invalid("git.credential", `"${name}" is a credential for ${kind}, not one for git`);
  }
  return {
    credential: id,
    kind,
    git_url: settings["git_url"] ?? "",
    api_url: settings["api_url"] ?? null,
    repositories: asked.repositories.map(({ name: repository, access, branches, update }, at) => {
      const lower = repository.toLowerCase();
      if (
        repositories !== null &&
        !matches(
          repositories.map((one) => one.toLowerCase()),
          lower,
        )
      ) {
        throw beyond("git.repositories", "repositories", repository);
      }
      if (access === "write" && branches.length === 0) {
        throw invalid(
          `git.repositories.${at}.branches`,
          "is missing: which branches may be pushed, such as agent/*",
        );
      }
      return { name: lower, access, branches: [...branches], update };
    }),
  };
}

function egressOf({ egress }: RunRequest, policy: Policy): EgressGrant | null {
  if (egress === undefined || egress.allow.length === 0) return null;
  const ceiling = policy.hosts?.map(parseAllowed);
  return {
    allow: egress.allow.map((text) => {
      const wanted = inField("egress.allow", () => parseAllowed(text));
      if (ceiling?.some((one) => covers(one, wanted)) === false) throw beyond("egress.allow", "hosts", text);
      return wanted;
    }),
    max_bytes: policy.egress_mb === null ? null : policy.egress_mb * MIB,
    max_connections: MAX_CONNECTIONS,
  };
}

function inField<T>(field: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw error instanceof AppError
      ? new AppError(error.code, `The field "${field}": ${error.message}`)
      : error;
  }
}

function invalid(field: string, what: string): AppError {
  return new AppError("invalid", `The field "${field}": ${what}.`);
}

function beyond(field: string, ceiling: string, what?: string): AppError {
  const shown = what === undefined ? "is" : `${JSON.stringify(what)} is`;
  return new AppError(
    "forbidden",
    `The field "${field}": ${shown} not within the workspace's policy ("${ceiling}").`,
  );
}

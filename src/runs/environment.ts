import { AppError } from "../errors.ts";
import type { RunId } from "../ids.ts";
import type { RunGrants } from "./grants.ts";

export interface EnvironmentParts {
  readonly run: RunId;
  /** The gateway's address in the run's network, and the first of its two ports. */
  readonly host: string;
  readonly port: number;
  readonly token: string;
  readonly grants: RunGrants;
  /** The request's. */
  readonly env: Readonly<Record<string, string>>;
}

export type Variables = Readonly<Record<string, string>>;

const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** The gateway's addresses as a run's tools want them. */
export function gatewayUrls({ host, port }: Pick<EnvironmentParts, "host" | "port">) {
  const base = `http://${host}:${port}`;
  return { base, openai: `${base}/v1`, proxy: (token: string) => `http://run:${token}@${host}:${port + 1}` };
}

/** All that a run's command finds in its environment. Nothing of any host's is in it. */
export function environmentOf(parts: EnvironmentParts): Variables {
  const { run, grants, env } = parts;
  return {
    PATH,
    TERM: "dumb",
    LANG: "C.UTF-8",
    ...env,
    HOME: "/home/agent",
    USER: "agent",
    LOGNAME: "agent",
    SHELL: "/bin/bash",
    COFFERDAM_RUN_ID: run,
    ...models(parts),
    ...(grants.git === null ? {} : git(parts, grants.git.git_url)),
    ...(grants.egress === null ? {} : proxy(parts)),
  };
}

function models({ grants, token, ...where }: EnvironmentParts): Variables {
  const { base, openai } = gatewayUrls(where);
  const has = (dialect: string) => grants.llm.some((one) => one.dialect === dialect);
  return {
    ...(has("anthropic") ? { ANTHROPIC_BASE_URL: base, ANTHROPIC_API_KEY: token } : {}),
    ...(has("openai") ? { OPENAI_BASE_URL: openai, OPENAI_API_KEY: token } : {}),
  };
}

/**
 * git is told by its environment alone, so that neither the token nor the gateway ends up in a .git/config. A clone that was
 * made by ssh elsewhere is led the same way.
 */
function git({ token, ...where }: EnvironmentParts, gitUrl: string): Variables {
  const { base } = gatewayUrls(where);
  const { host, pathname } = new URL(gitUrl);
  const https = `${gitUrl.replace(/\/+$/, "")}/`;
  const led = pathname === "/" ? [https, `git@${host}:`, `ssh://git@${host}/`] : [https];
  return configured([
    ...led.map((url) => [`url.${base}/git/${host}/.insteadOf`, url] as const),
    [`http.${base}/.extraHeader`, `Authorization: Bearer ${token}`],
  ]);
}

function configured(settings: readonly (readonly [string, string])[]): Variables {
  return {
    GIT_CONFIG_COUNT: `${settings.length}`,
    ...Object.fromEntries(
      settings.flatMap(([key, value], at) => [
        [`GIT_CONFIG_KEY_${at}`, key],
        [`GIT_CONFIG_VALUE_${at}`, value],
      ]),
    ),
    // It must never wait for a person.
    GIT_TERMINAL_PROMPT: "0",
  };
}

function proxy({ token, ...where }: EnvironmentParts): Variables {
  const url = gatewayUrls(where).proxy(token);
  // By HTTP nothing leaves, and what is on the run's own side of the proxy is not asked of it.
  const direct = `${where.host},localhost,127.0.0.1`;
  return { HTTPS_PROXY: url, https_proxy: url, NO_PROXY: direct, no_proxy: direct };
}

/** Ours, whether this run has them or not: a name that means something to us must not mean something else. */
const OURS =
  /^(PATH|HOME|USER|LOGNAME|SHELL|COFFERDAM_.*|ANTHROPIC_(BASE_URL|API_KEY)|OPENAI_(BASE_URL|API_KEY)|GIT_CONFIG_.*|GIT_TERMINAL_PROMPT|https?_proxy|all_proxy|no_proxy)$/i;

/** Throws AppError for a variable that a request may not set. */
export function checkEnvironment(env: Readonly<Record<string, string>>): void {
  const name = Object.keys(env).find((name) => OURS.test(name));
  if (name === undefined) return;
  throw new AppError("invalid", `The field "env.${name}": this variable is set by the appliance.`);
}

import { createHash } from "node:crypto";

const TOKEN = /sk-ant-[0-9a-f]{64}/g;
const SHOWN_OF_TOKEN = 12;
/** A long random word, or what well-known credentials begin with. */
const CREDENTIAL = /[0-9a-f]{32}|(^|[^A-Za-z0-9])(sk-|ghp_|ghs_|github_pat_|xox[bp]-|AKIA|eyJ)/;

/** The appliance's own variables, of which it is known what they hold: src/runs/environment.ts. */
const OURS =
  /^(PATH|TERM|LANG|HOME|USER|LOGNAME|SHELL|PWD|OLDPWD|SHLVL|_|COFFERDAM_RUN_ID|(ANTHROPIC|OPENAI)_(BASE_URL|API_KEY)|GIT_CONFIG_(COUNT|(KEY|VALUE)_\d+)|GIT_TERMINAL_PROMPT|HTTPS_PROXY|https_proxy|NO_PROXY|no_proxy)$/;

export interface Variable {
  readonly name: string;
  /** As it may be shown: of a token its beginning, of what is not the appliance's a hash. */
  readonly value: string;
  readonly of: "appliance" | "request" | "other";
  readonly credential: boolean;
}

/** A command's variables, none of whose secrets is shown whole. */
export function toldVariables(
  environ: Readonly<Record<string, string>>,
  asked: readonly string[],
): Variable[] {
  return Object.entries(environ).map(([name, value]) => {
    const of = asked.includes(name) ? "request" : OURS.test(name) ? "appliance" : "other";
    const credential = CREDENTIAL.test(value.replaceAll(TOKEN, ""));
    return { name, of, credential, value: of === "appliance" && !credential ? veiled(value) : hashed(value) };
  });
}

/** The tokens that are in them, each once. */
export function tokensIn(environ: Readonly<Record<string, string>>): string[] {
  return [...new Set(Object.values(environ).flatMap((value) => value.match(TOKEN) ?? []))];
}

function veiled(text: string): string {
  return text.replaceAll(TOKEN, (token) => `${token.slice(0, SHOWN_OF_TOKEN)}…(sha256 ${sha256(token)})`);
}

function hashed(value: string): string {
  return `(${Buffer.byteLength(value)} bytes, sha256 ${sha256(value)})`;
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

import { createPrivateKey, sign } from "node:crypto";
import { z } from "zod";
import { AppError } from "../../errors.ts";
import type { Call } from "../call.ts";
import type { AppCredential } from "./credential.ts";

/** What one token opens: repositories of one owner, for reading or for writing. */
export interface Scope {
  readonly owner: string;
  /** Without the owner. */
  readonly repositories: readonly string[];
  readonly access: "read" | "write";
}

export interface InstallationToken {
  readonly token: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
}

const CALL_MS = 20_000;
const MAX_ANSWER_BYTES = 1024 * 1024;
/** Before now, for a clock of GitHub's that is behind; and less than the ten minutes that GitHub allows, for one ahead. */
const ISSUED_BEFORE_S = 60;
const EXPIRES_AFTER_S = 540;

const installation = z.object({ id: z.int() });
const minted = z.object({ token: z.string().min(1), expires_at: z.iso.datetime({ offset: true }) });

/** A JSON Web Token (RFC 7519) that says of the caller that it is the app: RS256, which is all that GitHub takes. */
function appJwt({ app_id, private_key }: AppCredential, now: number): string {
  const seconds = Math.floor(now / 1000);
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { iat: seconds - ISSUED_BEFORE_S, exp: seconds + EXPIRES_AFTER_S, iss: app_id };
  const signed = `${part({ alg: "RS256", typ: "JWT" })}.${part(claims)}`;
  const signature = sign("RSA-SHA256", Buffer.from(signed), keyOf(private_key));
  return `${signed}.${signature.toString("base64url")}`;
}

/** PKCS #1, as GitHub gives it out, or PKCS #8. */
function keyOf(pem: string) {
  try {
    return createPrivateKey(pem);
  } catch {
    // The cause might quote it.
    throw new AppError("unavailable", "The GitHub App's private key can't be read.");
  }
}

export async function mintToken(
  call: Call,
  credential: AppCredential,
  scope: Scope,
  now: number,
): Promise<InstallationToken> {
  const { owner, repositories, access } = scope;
  const authorization = `Bearer ${appJwt(credential, now)}`;
  const ask = (method: "GET" | "POST", path: string, body?: unknown) =>
    askApi(call, `${credential.api_url}${path}`, { method, authorization, body });

  const found = await ask("GET", `/repos/${owner}/${repositories[0] ?? ""}/installation`);
  if (found.status !== 200) throw refusal(found.status, scope);
  const { id } = parseAnswer(installation, found.body);
  const answer = await ask("POST", `/app/installations/${id}/access_tokens`, {
    repositories,
    permissions: { contents: access },
  });
  if (answer.status !== 201) throw refusal(answer.status, scope);
  const { token, expires_at } = parseAnswer(minted, answer.body);
  return { token, expiresAt: Date.parse(expires_at) };
}

/** Throws when it may still be good. */
export async function revokeToken(call: Call, apiUrl: string, token: string): Promise<void> {
  const { status } = await askApi(call, `${apiUrl}/installation/token`, {
    method: "DELETE",
    authorization: `Bearer ${token}`,
  });
  // 401: it was revoked before, or has expired.
  if (status !== 204 && status !== 401) throw new Error(`revoking a token was answered with ${status}`);
}

interface Ask {
  readonly method: "GET" | "POST" | "DELETE";
  readonly authorization: string;
  readonly body?: unknown;
}

async function askApi(call: Call, url: string, { method, authorization, body }: Ask) {
  const response = await call(url, {
    method,
    headers: {
      authorization,
      accept: "application/vnd.github+json",
      "x-github-api-version": "2022-11-28",
      "user-agent": "cofferdam",
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(CALL_MS),
  }).catch((error: unknown) => {
    throw error instanceof AppError
      ? error
      : new AppError("unavailable", `${new URL(url).host} did not answer in time.`, { cause: error });
  });
  return { status: response.status, body: await textOf(response) };
}

async function textOf(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes > MAX_ANSWER_BYTES) break;
  }
  return Buffer.concat(chunks).toString();
}

function parseAnswer<T>(schema: z.ZodType<T>, text: string): T {
  const parsed = schema.safeParse(jsonOf(text));
  if (parsed.success) return parsed.data;
  throw new AppError("unavailable", "GitHub's answer about the App's installation was not understood.");
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refusal(status: number, { owner, repositories, access }: Scope): AppError {
  const names = repositories.map((name) => `${owner}/${name}`).join(", ");
  const why: Readonly<Record<number, string>> = {
    401: "GitHub does not take the App's key (401)",
    403: `GitHub refuses the App (403): it may be suspended for ${owner}`,
    404: `the GitHub App is not installed for ${names} (404)`,
    422: `the GitHub App may not ${access} all of ${names} (422): it lacks a repository or the permission "contents"`,
  };
  return new AppError("unavailable", `${why[status] ?? `GitHub gives no token for ${names} (${status})`}.`);
}

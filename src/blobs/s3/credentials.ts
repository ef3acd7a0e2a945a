import { AppError } from "../../errors.ts";

export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Of temporary ones. */
  readonly sessionToken?: string;
}

const NAMES = {
  aws_access_key_id: "accessKeyId",
  aws_secret_access_key: "secretAccessKey",
  aws_session_token: "sessionToken",
} as const;

/**
 * What `aws configure` writes to ~/.aws/credentials, with one profile: a line `[default]`, which may be missing, and
 * `name = value` lines. Throws a sentence that names the line and holds nothing of what stands there.
 */
export function parseCredentials(text: string, file: string): Credentials {
  const found = new Map<string, string>();
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (line === "" || /^[#;]/.test(line) || line === "[default]") continue;
    const wrong = (what: string) => new AppError("invalid", `${file}:${index + 1}: ${what}.`);
    if (line.startsWith("[")) throw wrong("only one profile may be there, [default]");
    const [, name = "", value = ""] = /^([a-z_]+)\s*=\s*(\S+)$/.exec(line) ?? [];
    if (!isName(name)) throw wrong(`expected NAME = VALUE with a name of ${Object.keys(NAMES).join(", ")}`);
    // What goes into a header: anything else is a slip.
    if (!/^[!-~]+$/.test(value)) throw wrong(`the value of ${name} is not plain text`);
    found.set(NAMES[name], value);
  }
  const { accessKeyId, secretAccessKey, ...rest } = Object.fromEntries(found) as Partial<Credentials>;
  if (accessKeyId === undefined || secretAccessKey === undefined) {
    throw new AppError(
      "invalid",
      `${file}: it needs both aws_access_key_id and aws_secret_access_key, as NAME = VALUE lines.`,
    );
  }
  return { accessKeyId, secretAccessKey, ...rest };
}

function isName(name: string): name is keyof typeof NAMES {
  return Object.hasOwn(NAMES, name);
}

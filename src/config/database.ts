import { AppError } from "../errors.ts";
import { isLoopback } from "./listen.ts";
import type { Config } from "./schema.ts";

/** A libSQL server, as `[database]` names it. */
export interface DatabaseServer {
  /** http:// or https://, and perhaps a path. */
  readonly url: string;
  /** Files of the operator's; null for none. */
  readonly tokenFile: string | null;
  readonly caFile: string | null;
}

/** What `[database]` says as a whole, checked; null for a file of this host. Throws a sentence that says what to set. */
export function databaseServerOf(database: Config["database"]): DatabaseServer | null {
  const { url: text, auth_token_file: token, ca_file: ca } = database;
  if (text === "") {
    const [key] =
      Object.entries({ auth_token_file: token, ca_file: ca }).find(([, file]) => file !== "") ?? [];
    if (key !== undefined)
      throw invalid(`${key} is set and url is not; it is a libSQL server that takes it.`);
    return null;
  }
  const url = URL.parse(text.replace(/^libsql:/, "https:"));
  if (url === null || !["http:", "https:"].includes(url.protocol) || url.search + url.hash !== "") {
    throw invalid(`url = "${text}" must be https://HOST[:PORT][/PATH], or empty for a file of this host.`);
  }
  if (url.username + url.password !== "") {
    throw invalid("url holds a password or token, which it would show to many; put it in auth_token_file.");
  }
  if (url.hostname === "localhost") url.hostname = "127.0.0.1";
  if (!isLoopback(url.hostname.replace(/^\[(.*)\]$/, "$1"))) {
    if (url.protocol === "http:") {
      throw invalid(
        `url = "${text}" would send keys and the audit log in the clear beyond this host; use https: ` +
          "(a proxy with a certificate before the server), or a server on loopback such as http://127.0.0.1:8081.",
      );
    }
    if (token === "") {
      throw invalid(
        `url = "${text}" is beyond this host, where a server has to ask who calls; ` +
          "set auth_token_file to a file with a token of that server's.",
      );
    }
  }
  return {
    url: url.href,
    tokenFile: token === "" ? null : token,
    caFile: ca === "" ? null : ca,
  };
}

function invalid(what: string): AppError {
  return new AppError("invalid", `[database] ${what}`);
}

export type Service = "git-upload-pack" | "git-receive-pack";

export interface Route {
  /** As in the credential's git_url, with its port where it has one. */
  readonly host: string;
  /** owner/repo in lower case, without .git. */
  readonly repository: string;
  readonly service: Service;
  /** Whether it asks which refs there are, before it asks for the rest. */
  readonly advertisement: boolean;
}

const SERVICES: readonly Service[] = ["git-upload-pack", "git-receive-pack"];
const SEGMENT = /^[a-z0-9._-]{1,100}$/;

/** What git asks of a smart server, to the letter, or null: that is all there is. */
export function parseRoute(method: string, url: string): Route | null {
  const { pathname, search } = new URL(url);
  const [, prefix, host = "", owner = "", name = "", ...rest] = pathname.split("/");
  const repository = nameOf(`${owner}/${name}`);
  if (prefix !== "git" || host === "" || repository === null) return null;
  const path = rest.join("/");
  const service = SERVICES.find((one) =>
    path === "info/refs" ? search === `?service=${one}` : path === one,
  );
  if (service === undefined) return null;
  const advertisement = path === "info/refs";
  if (advertisement ? method !== "GET" : method !== "POST" || search !== "") return null;
  return { host: host.toLowerCase(), repository, service, advertisement };
}

/** The one spelling of owner/repo, which is what is compared and what the server is asked for. */
export function nameOf(text: string): string | null {
  const [owner = "", name = "", ...more] = text.toLowerCase().split("/");
  const bare = name.replace(/\.git$/, "");
  const isName = (part: string) => SEGMENT.test(part) && !/^\.+$/.test(part);
  return more.length === 0 && isName(owner) && isName(bare) ? `${owner}/${bare}` : null;
}

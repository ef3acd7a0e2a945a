import { z } from "zod";

/** What was sealed, of either kind. The grant's own URLs are for the run to see; a secret goes where its credential says. */
const credential = z.union([
  z.object({
    app_id: z.string(),
    private_key: z.string(),
    api_url: z.string(),
    git_url: z.string(),
  }),
  z.object({ username: z.string().optional(), secret: z.string(), git_url: z.string() }),
]);
export type GitCredential = z.infer<typeof credential>;
export type AppCredential = Extract<GitCredential, { app_id: string }>;

export function parseCredential(opened: unknown): GitCredential {
  const parsed = credential.safeParse(opened);
  // Not zod's own message, which might say what it found.
  if (!parsed.success) throw new Error("a git credential is not of the form that is sealed");
  return parsed.data;
}

/** What stands between /git/ and the repository in the gateway's own URLs, and in a clone's .git/config after https://. */
export function hostOf(gitUrl: string): string {
  return new URL(gitUrl).host;
}

export function basic(username: string, secret: string): string {
  return `Basic ${Buffer.from(`${username}:${secret}`).toString("base64")}`;
}

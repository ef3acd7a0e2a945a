import { z } from "zod";
import type { CredentialId } from "../ids.ts";
import { openWith } from "../protocol/seal.ts";
import type { RunGrant } from "../protocol/gateway.ts";
import { OperationError } from "../protocol/lines/failure.ts";

/** Where api lets a secret be sent is sealed with it: a grant can't name another place. */
const places = z.object({
  base_url: z.string().optional(),
  api_url: z.string().optional(),
  git_url: z.string().optional(),
});

interface Wanted {
  readonly credential: CredentialId;
  readonly sealed: string;
  readonly places: Readonly<Record<string, string | null>>;
}

/** Opens what a grant brings. Throws when it was sealed to another key, or for somewhere else than the grant says. */
export async function openSecrets(
  privateKey: Uint8Array,
  { llm, git }: RunGrant,
): Promise<ReadonlyMap<CredentialId, unknown>> {
  const wanted: Wanted[] = [
    ...llm.map((one) => ({ ...one, places: { base_url: one.base_url } })),
    ...(git === null ? [] : [{ ...git, places: { git_url: git.git_url, api_url: git.api_url } }]),
  ];
  return new Map(
    await Promise.all(wanted.map(async (one) => [one.credential, await open(privateKey, one)] as const)),
  );
}

async function open(privateKey: Uint8Array, { credential, sealed, places: named }: Wanted): Promise<unknown> {
  const secret = await openWith(privateKey, Buffer.from(sealed, "base64"), credential).then(
    (plain): unknown => JSON.parse(Buffer.from(plain).toString()),
    // Never with its cause, which may quote what it read.
    () => null,
  );
  const within = places.safeParse(secret);
  if (!within.success) {
    throw new OperationError("bad_request", `${credential} was not sealed to this gateway's key`);
  }
  for (const [name, url] of Object.entries(named)) {
    const known = within.data[name as keyof typeof within.data] ?? null;
    if (known !== url)
      throw new OperationError("bad_request", `${credential} may not be sent to this ${name}`);
  }
  return secret;
}

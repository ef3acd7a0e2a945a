import { AppError } from "../errors.ts";
import type { RunGrant } from "../protocol/gateway.ts";
import { openGiven, tokenHash } from "./given.ts";
import type { LifeParts } from "./parts.ts";
import { grantsOf, networkOf, type Run } from "./run.ts";

/** What the gateway is told of a run. A credential that was deleted meanwhile is left out, and its lane with it. */
export async function grantOf(
  { credentials, secrets }: Pick<LifeParts, "credentials" | "secrets">,
  run: Run,
  deadline: number,
): Promise<RunGrant> {
  const network = networkOf(run);
  if (network === null || run.given === null) throw new Error(`${run.id} has no network yet, or no more`);
  const { llm, git, egress } = grantsOf(run);
  const ids = [...llm, ...(git === null ? [] : [git])].map(({ credential }) => credential);
  const sealed = await credentials.sealed(ids);
  const withSecret = <G extends RunGrant["llm"][number] | NonNullable<RunGrant["git"]>>(
    grant: Omit<G, "sealed">,
  ): G[] => {
    const secret = sealed.get((grant as G).credential);
    return secret === undefined ? [] : [{ ...grant, sealed: Buffer.from(secret).toString("base64") } as G];
  };
  return {
    run: run.id,
    host: network.host,
    peer: network.run,
    token_sha256: tokenHash(openGiven(secrets, run.given, run.id).token),
    deadline,
    llm: llm.flatMap((one) => withSecret<RunGrant["llm"][number]>(one)),
    git: git === null ? null : (withSecret<NonNullable<RunGrant["git"]>>(git)[0] ?? null),
    egress,
  };
}

/** A run does not begin without what it was promised. */
export function refuseIncomplete(run: Run, grant: RunGrant): void {
  const { llm, git } = grantsOf(run);
  if (grant.llm.length === llm.length && (grant.git === null) === (git === null)) return;
  throw new AppError("conflict", "A credential that it was to use was deleted before it began.");
}

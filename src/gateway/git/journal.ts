import { z } from "zod";
import type { CredentialId } from "../../ids.ts";
import type { Journal } from "../journal.ts";
import type { Command } from "./push.ts";
import type { Outcome } from "./report.ts";

/** What a run's journal keeps of its pushes: the branches that it made, and the pushes whose end is not known yet. */
const BRANCH = "git branch ";
const PUSH = "git push ";

const keptPush = z.strictObject({
  credential: z.custom<CredentialId>((value) => typeof value === "string"),
  repository: z.string(),
  refs: z.array(z.strictObject({ ref: z.string(), old: z.string(), new: z.string() })),
});

export function isOwnBranch(journal: Journal, repository: string, ref: string): boolean {
  return journal.kept().has(branchName(repository, ref));
}

export async function keepBranch(journal: Journal, repository: string, ref: string): Promise<void> {
  await journal.keep(branchName(repository, ref), true);
}

function branchName(repository: string, ref: string): string {
  return `${BRANCH}${repository} ${ref}`;
}

export interface BegunPush {
  readonly credential: CredentialId;
  readonly repository: string;
  readonly commands: readonly Command[];
}

/** Before any of a push is sent on; answers what it is called. */
export async function keepPush(
  journal: Journal,
  { credential, repository, commands }: BegunPush,
): Promise<string> {
  const name = PUSH + crypto.randomUUID();
  const refs = commands.map(({ ref, old, new: to }) => ({ ref, old, new: to }));
  await journal.keep(name, { credential, repository, refs });
  return name;
}

export interface EndedPush extends Omit<BegunPush, "commands"> {
  readonly outcomes: readonly Outcome[];
  readonly bytes: number;
  readonly durationMs: number;
}

export function settlePush(journal: Journal, name: string, push: EndedPush): void {
  const { credential, repository, outcomes, bytes, durationMs } = push;
  const refs = outcomes.map(({ ref, old, new: to, accepted }) => ({ ref, old, new: to, accepted }));
  journal.append({
    kind: "git",
    credential,
    repository,
    action: "push",
    refs,
    bytes,
    duration_ms: Math.round(durationMs),
  });
  journal.drop(name);
}

/** Those that a crash of the gateway cut: whether the server took them nobody knows. */
export function settleLostPushes(journal: Journal): void {
  for (const [name, value] of journal.kept()) {
    if (!name.startsWith(PUSH)) continue;
    const { credential, repository, refs } = keptPush.parse(value);
    const outcomes = refs.map((ref) => ({ ...ref, accepted: null }));
    settlePush(journal, name, { credential, repository, outcomes, bytes: 0, durationMs: 0 });
  }
}

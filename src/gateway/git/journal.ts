import { z } from "zod";
import type { CredentialId } from "../../ids.ts";
import type { Journal } from "../journal.ts";
import { isZero, type Command } from "./push.ts";
import type { Outcome } from "./report.ts";

const PUSH = "git push ";

const keptPush = z.strictObject({
  credential: z.custom<CredentialId>((value) => typeof value === "string"),
  repository: z.string(),
  refs: z.array(z.strictObject({ ref: z.string(), old: z.string(), new: z.string() })),
});

/** Of one look into a journal. */
const PAGE_BYTES = 1024 * 1024;

export type IsOwnBranch = (journal: Journal, repository: string) => Promise<(ref: string) => boolean>;

/**
 * Which branches a run itself has made: those of which its journal says that a server took them when there were none. Read
 * as far as it is not known yet, so a gateway that has just started knows the same.
 */
export function createOwnBranches(): IsOwnBranch {
  const known = new WeakMap<Journal, { seq: number; readonly branches: Set<string> }>();
  const name = (repository: string, ref: string) => `${repository} ${ref}`;
  return async (journal, repository) => {
    const own = known.get(journal) ?? { seq: 0, branches: new Set() };
    known.set(journal, own);
    for (;;) {
      const records = await journal.recordsAfter(own.seq, PAGE_BYTES);
      for (const record of records) {
        own.seq = Math.max(own.seq, record.seq);
        if (record.kind !== "git") continue;
        const made = record.refs.filter(({ accepted, old }) => accepted === true && isZero(old));
        for (const { ref } of made) own.branches.add(name(record.repository, ref));
      }
      if (records.length === 0) return (ref) => own.branches.has(name(repository, ref));
    }
  };
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

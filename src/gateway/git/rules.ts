import type { GitGrant } from "../../protocol/gateway.ts";
import { branchOf, coversBranch } from "./branches.ts";
import { isZero, type Command } from "./push.ts";

export type Repository = GitGrant["repositories"][number];

export interface Refused {
  readonly ref: string;
  /** Of a denial: few, fixed words. */
  readonly reason: "tag" | "ref" | "delete" | "branch" | "update";
  /** For a person, beside the ref's name. */
  readonly why: string;
}

/**
 * What of a push its run may not do. A push says of each ref which commit it is at and which it shall be at, and the server
 * holds it to the first; so whether a branch is new is known here, but not whether the second follows from the first: that
 * takes the server's commits. Thus a branch may either be moved, backwards too, or not: those that the run itself
 * has made may be, others only with `update`.
 */
export function refusedOf(
  commands: readonly Command[],
  { branches, update }: Repository,
  isOwn: (ref: string) => boolean,
): Refused[] {
  return commands.flatMap((command): Refused[] => {
    const { ref } = command;
    const refuse = (reason: Refused["reason"], why: string) => [{ ref, reason, why }];
    if (ref.startsWith("refs/tags/")) return refuse("tag", "runs push branches, no tags");
    if (!ref.startsWith("refs/heads/")) return refuse("ref", "runs push branches, no other refs");
    if (isZero(command.new)) return refuse("delete", "runs delete no branches");
    const branch = branchOf(ref);
    if (branch === null) return refuse("branch", "the branch's name has characters that runs may not use");
    if (!branches.some((pattern) => coversBranch(pattern, branch))) {
      return refuse("branch", `this run may push only to ${listed(branches)}`);
    }
    if (isZero(command.old) || update || isOwn(ref)) return [];
    return refuse("update", "the branch is not of this run, which may not change others");
  });
}

const SHOWN = 5;

export function listed(names: readonly string[]): string {
  if (names.length === 0) return "no branch";
  const more = names.length > SHOWN ? [`${names.length - SHOWN} more`] : [];
  return [...names.slice(0, SHOWN), ...more].join(", ");
}

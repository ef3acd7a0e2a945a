import type { Evidence } from "./evidence.ts";
import type { Section } from "./section.ts";

/** For somebody who checks one claim after the other. */
export function evidenceText({ run_id, taken_at, live, run, sections }: Evidence): string {
  const how = live
    ? run.status
    : `over: ${run.status}${run.exit_code === null ? "" : `, exit code ${run.exit_code}`}`;
  const head = [
    `Evidence of ${run_id} (namespace ${run.namespace} of ${run.workspace_id}), ${how}, from this host at ${taken_at}.`,
    "",
  ];
  const told = sections.flatMap((section, at) => [...sectionText(section, at + 1), ""]);
  return [...head, ...told, verdict(sections)].join("\n");
}

/** For a script: the sections by their names. */
export function evidenceJson({ sections, ...taken }: Evidence) {
  const shown = ({ claim, holds, wrong, by_hand, facts }: Section) => ({
    claim,
    holds,
    wrong,
    by_hand,
    facts,
  });
  return {
    ...taken,
    sections: Object.fromEntries(sections.map((section) => [section.name, shown(section)])),
  };
}

const VERDICTS = new Map<boolean | null, string>([
  [true, "HOLDS"],
  [false, "DOES NOT HOLD"],
  [null, "NOT SEEN"],
]);

function sectionText({ title, claim, holds, wrong, lines, by_hand }: Section, number: number): string[] {
  return [
    `${number}. ${title}`,
    `   Claim: ${claim}`,
    ...lines.map((line) => `     ${visible(line)}`),
    ...by_hand.map((command) => `   By hand: ${command}`),
    `   ${VERDICTS.get(holds)}${wrong.length === 0 ? "" : `: ${visible(wrong.join("; "))}`}`,
  ];
}

/** A tenant's words must not move the reader's terminal. */
function visible(line: string): string {
  return line.replaceAll(
    /[\p{Cc}\p{Cf}\u2028\u2029]/gu,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  );
}

function verdict(sections: readonly Section[]): string {
  const count = (wanted: boolean | null) => sections.filter(({ holds }) => holds === wanted).length;
  const [held, not, unseen] = [count(true), count(false), count(null)];
  return `${held} of ${sections.length} claims hold${not === 0 ? "" : `, ${not} do not`}${unseen === 0 ? "" : `, ${unseen} could not be looked at`}.`;
}

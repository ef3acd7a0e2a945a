import { z } from "zod";
import type { Claim } from "./claim.ts";

/** What a probe prints at its end: for each thing that it tried, what came of it, and how long that took. */
const reported = z.object({ seen: z.record(z.string(), z.string()), ms: z.record(z.string(), z.number()) });
export type Report = z.infer<typeof reported>;

/** With what was seen from elsewhere. */
export function withSeen({ seen, ms }: Report, more: Readonly<Record<string, string>>): Report {
  return { seen: { ...seen, ...more }, ms };
}

const MARK = "PROBE ";

/** Of a probe's output; when it holds no report, its end says why. */
export function reportOf(output: string): Report {
  const line = output.split("\n").find((one) => one.startsWith(MARK));
  if (line === undefined)
    throw new Error(`the probe said nothing: ${output.trim().slice(-300) || "no error"}`);
  return reported.parse(JSON.parse(line.slice(MARK.length)));
}

/** A claim about what a probe saw. */
export interface Look {
  readonly id: string;
  readonly claim: string;
  readonly attack: string;
  /** What of the report is the attack's, and what may stand there when the wall holds. */
  readonly names: readonly string[];
  readonly held: readonly string[];
  readonly control: string;
  readonly controls: readonly string[];
  /** "done" unless given. */
  readonly worked?: readonly string[];
}

export function claimsOf(looks: readonly Look[], { seen: report, ms }: Report): Claim[] {
  const seen = (names: readonly string[], good: readonly string[]) => {
    const bad = names.filter((name) => !good.includes(report[name] ?? "not tried"));
    const shown = (bad.length > 0 ? bad : names).map((name) => `${name} → ${report[name] ?? "not tried"}`);
    return { ok: bad.length === 0 && names.length > 0, what: shown.join(", ") };
  };
  return looks.map(({ id, claim, attack, names, held, control, controls, worked = ["done"] }) => ({
    id,
    claim,
    attack,
    control,
    try: async () => ({
      attack: seen(names, held),
      control: seen(controls, worked),
      ms: [...new Set([...names, ...controls])].reduce((sum, name) => sum + (ms[name] ?? 0), 0),
    }),
  }));
}

const NO_CAPABILITY = Array.from({ length: 4 }, () => "0".repeat(16)).join(",");

/** Whether the probe is the tenants' user, with nothing that makes it more. */
export const isTenant: Omit<Look, "id" | "claim"> = {
  attack: "read its uid, capabilities and no_new_privs",
  names: ["uid", "capabilities", "no_new_privs"],
  held: ["10000", NO_CAPABILITY, "1"],
  control: "read its own /proc/self/status",
  controls: ["uid"],
  worked: ["10000"],
};

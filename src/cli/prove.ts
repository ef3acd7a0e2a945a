import { defineCommand } from "citty";
import { z } from "zod";
import { environment } from "../config/environment.ts";
import { loadConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { AppError } from "../errors.ts";
import type { Instance } from "../instance/instance.ts";
import { isTrial } from "../instance/restored.ts";
import { hasPassed, type ClaimResult, type ProofReport } from "../protocol/proof.ts";
import { bombGroup } from "../prove/bombs.ts";
import { withDeadline } from "../prove/deadline.ts";
import { proofIsDue } from "../prove/due.ts";
import { execGroup } from "../prove/exec.ts";
import { clearPlace, openPlace } from "../prove/place.ts";
import { prove as proveAll } from "../prove/prove.ts";
import { runGroup } from "../prove/run.ts";
import { connect, type Appliance } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { configFileOf } from "./backup-options.ts";
import { counted, jsonArgument, print } from "./output.ts";
import { strict } from "./strict.ts";

const state = z.object({ passed: z.boolean(), admission: z.enum(["open", "closed"]) }).loose();
/** By a timer, one that could not be made to its end is made again first: api may just be starting anew. */
const TRIES = 3;
const AGAIN_MS = 10_000;
/** What is not cleared by then, the next one clears. */
const CLEARING_MS = 60_000;

interface Choice {
  readonly quick: boolean;
  readonly verbose: boolean;
  readonly json: boolean;
  readonly tries: number;
}

export const prove = defineCommand({
  meta: {
    name: "prove",
    description:
      "Attack this appliance from inside real sandboxes and say what held. Exits 1 when something did not; new runs then wait until it does, or until --override.",
  },
  plugins: [strict],
  args: {
    quick: { type: "boolean", description: "What takes less than a minute" },
    verbose: {
      type: "boolean",
      description: "Also of what held, what was tried and what showed that it could work",
    },
    due: {
      type: "boolean",
      description: "Only after a start, or when [runs] prove_every_h says so, or while it fails; for timers",
    },
    override: {
      type: "string",
      description: "Let runs begin although the newest proof failed, and say why; nothing is tried",
      valueHint: "REASON",
    },
    ...dataArgument,
    ...jsonArgument,
  },
  async run({ args }) {
    if (process.getuid?.() !== 0)
      throw new AppError("forbidden", "A proof looks at the host as root; use sudo.");
    const appliance = connect(args.data);
    if (args.override !== undefined) {
      const answer = await appliance.ask(state, "/admin/proofs/override", {
        method: "POST",
        json: { reason: args.override },
      });
      print(args.json, answer, () => "Runs begin again. The override is in the audit log.");
      return;
    }
    const config = configOf(appliance.instance);
    if (args.due === true) {
      if (isTrial(appliance.instance.data)) return;
      if (!(await proofIsDue(appliance, config.runs.prove_every_h))) return;
    }
    const report = await attempt(appliance, config, {
      quick: args.quick === true,
      verbose: args.verbose === true,
      json: args.json === true,
      tries: args.due === true ? TRIES : 1,
    });
    const answer = await appliance.ask(state, "/admin/proofs", { method: "POST", json: report });
    const failed = report.claims.filter(({ passed }) => !passed).length;
    print(args.json, { passed: hasPassed(report), ...report, admission: answer.admission }, () =>
      [
        ...(report.error === null ? [] : [`The proof did not come to its end: ${report.error}`]),
        `${counted(report.claims.length - failed, "claim")} held, ${failed} did not, in ${(report.duration_ms / 1000).toFixed(1)} s; new runs are ${answer.admission === "open" ? "let in" : "not let in"}.`,
      ].join("\n"),
    );
    if (!hasPassed(report)) process.exitCode = 1;
    // What never ended would be waited for; what it has on the host goes with this process.
    if (report.error !== null) process.stdout.write("", () => process.exit(1));
  },
});

async function attempt(appliance: Appliance, config: Config, choice: Choice): Promise<ProofReport> {
  const place = await openPlace(appliance, config);
  const progress = process.stderr.isTTY && !choice.json;
  const report = await proveAll({
    groups: [execGroup(place), runGroup(place), bombGroup(place)],
    quick: choice.quick,
    onGroup: (name) => {
      if (progress) process.stderr.write(`… ${name}\n`);
    },
    onResult: (result) => {
      if (!choice.json) process.stdout.write(`${lineOf(result, choice.verbose)}\n`);
    },
  });
  await withDeadline(clearPlace(place), CLEARING_MS).catch(() => {});
  if (report.error === null || choice.tries <= 1) return report;
  await Bun.sleep(AGAIN_MS);
  return attempt(appliance, config, { ...choice, tries: choice.tries - 1 });
}

function configOf(instance: Instance): Config {
  return loadConfig({
    defaultFile: configFileOf(instance),
    shownAs: instance.configFile,
    env: environment(),
  }).config;
}

function lineOf(result: ClaimResult, verbose: boolean): string {
  const { id, claim, attack, attack_held, control, control_worked, passed, duration_ms } = result;
  const line = `${passed ? "PASS" : "FAIL"}  ${id.padEnd(24)}  ${String(duration_ms).padStart(5)} ms  ${claim}`;
  if (passed && !verbose) return line;
  const mark = (ok: boolean) => (ok ? " " : "!");
  return `${line}\n    ${mark(attack_held)} attack: ${attack}\n    ${mark(control_worked)} control: ${control}`;
}

import { defineCommand } from "citty";
import { z } from "zod";
import { environment } from "../config/environment.ts";
import { loadConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { AppError } from "../errors.ts";
import type { Instance } from "../instance/instance.ts";
import { hasPassed, type ClaimResult } from "../protocol/proof.ts";
import { execGroup } from "../prove/exec.ts";
import { clearPlace, openPlace } from "../prove/place.ts";
import { prove as proveAll } from "../prove/prove.ts";
import { runGroup } from "../prove/run.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { configFileOf } from "./backup-options.ts";
import { counted, jsonArgument, print } from "./output.ts";
import { strict } from "./strict.ts";

const state = z.object({ passed: z.boolean(), admission: z.enum(["open", "closed"]) }).loose();

export const prove = defineCommand({
  meta: {
    name: "prove",
    description:
      "Attack this appliance from inside real sandboxes and say what held. Exits 1 when something did not; new runs then wait until it does, or until --override.",
  },
  plugins: [strict],
  args: {
    quick: { type: "boolean", description: "What takes less than a minute" },
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
    const place = await openPlace(appliance, configOf(appliance.instance));
    const report = await proveAll({
      groups: [execGroup(place), runGroup(place)],
      quick: args.quick === true,
      onResult: (result) => {
        if (args.json !== true) process.stdout.write(`${lineOf(result)}\n`);
      },
    });
    await clearPlace(place);
    const answer = await appliance.ask(state, "/admin/proofs", { method: "POST", json: report });
    const failed = report.claims.filter(({ passed }) => !passed).length;
    print(args.json, { passed: hasPassed(report), ...report, admission: answer.admission }, () =>
      [
        ...(report.error === null ? [] : [`The proof did not come to its end: ${report.error}`]),
        `${counted(report.claims.length - failed, "claim")} held, ${failed} did not, in ${(report.duration_ms / 1000).toFixed(1)} s; new runs are ${answer.admission === "open" ? "let in" : "not let in"}.`,
      ].join("\n"),
    );
    if (!hasPassed(report)) process.exitCode = 1;
  },
});

function configOf(instance: Instance): Config {
  return loadConfig({ defaultFile: configFileOf(instance), shownAs: instance.configFile, env: environment() })
    .config;
}

function lineOf({ id, claim, attack, control, passed, duration_ms }: ClaimResult): string {
  const line = `${passed ? "PASS" : "FAIL"}  ${id.padEnd(28)}  ${claim}  (${duration_ms} ms)`;
  return passed ? line : `${line}\n      ${attack}\n      ${control}`;
}

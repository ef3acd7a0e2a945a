import { defineCommand } from "citty";
import { z } from "zod";
import { check } from "../protocol/sandboxd.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print } from "./output.ts";
import { strict } from "./strict.ts";

export const doctor = defineCommand({
  meta: {
    name: "doctor",
    description: "Look for what is wrong and say what to do. Exits 1 when something is wrong.",
  },
  plugins: [strict],
  args: { ...dataArgument, ...jsonArgument },
  async run({ args }) {
    const answer = await connect(args.data).ask(z.object({ checks: z.array(check) }), "/admin/doctor");
    const failed = answer.checks.filter(({ status }) => status === "fail").length;
    print(args.json, { ok: failed === 0, ...answer }, () => {
      const width = Math.max(...answer.checks.map(({ name }) => name.length));
      const lines = answer.checks.flatMap(({ name, status, detail, fix }) => [
        `${status.padEnd(4)}  ${name.padEnd(width)}  ${detail}`,
        ...(fix === null ? [] : [`${" ".repeat(width + 8)}${fix}`]),
      ]);
      const verdict =
        failed === 0 ? "Nothing is wrong." : `${failed} of ${answer.checks.length} checks failed.`;
      return [...lines, verdict].join("\n");
    });
    if (failed > 0) process.exitCode = 1;
  },
});

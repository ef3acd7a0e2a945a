import { defineCommand } from "citty";
import { AppError } from "../errors.ts";
import { takeEvidence } from "../evidence/evidence.ts";
import { evidenceJson, evidenceText } from "../evidence/text.ts";
import { runOnRecord, type RunOnRecord } from "../protocol/evidence.ts";
import { openCgroups } from "../sandboxd/cgroup.ts";
import { openLibrary } from "../sandboxd/library.ts";
import { runCommand } from "../sandboxd/runner.ts";
import { connect } from "./appliance.ts";
import { dataArgument, libraryArgument, libraryOf } from "./arguments.ts";
import { jsonArgument, print } from "./output.ts";
import { idArgument } from "./run-row.ts";
import { strict } from "./strict.ts";

export const evidence = defineCommand({
  meta: {
    name: "evidence",
    description:
      "What this host shows of a run now: what confines it, claim by claim, with the command to see each by hand. Exits 1 when a claim does not hold.",
  },
  plugins: [strict],
  args: {
    ...idArgument,
    only: { type: "string", description: "These sections, with commas: filter,network", valueHint: "NAMES" },
    "hash-image": {
      type: "boolean",
      description: "Read all of the image that is its root file system; takes some seconds",
    },
    ...libraryArgument,
    ...dataArgument,
    ...jsonArgument,
  },
  async run({ args }) {
    if (process.getuid?.() !== 0)
      throw new AppError("forbidden", "Evidence is taken from the host as root; use sudo.");
    const appliance = connect(args.data);
    const path = `/admin/runs/${encodeURIComponent(args.run)}/evidence`;
    const onRecord = await appliance.ask(runOnRecord, path, { method: "POST" });
    checkBegun(onRecord);
    const library = openLibrary(libraryOf(args));
    const taken = await takeEvidence({
      onRecord,
      host: {
        instance: appliance.instance,
        config: onRecord.config,
        runsc: library.runsc,
        cgroups: openCgroups(),
        run: runCommand,
      },
      library,
      appliance,
      hashImage: args["hash-image"] === true,
      only: args.only?.split(",").map((name) => name.trim()) ?? null,
    });
    print(args.json, evidenceJson(taken), () => evidenceText(taken));
    if (taken.holds !== true) process.exitCode = 1;
  },
});

function checkBegun({ run_id, status, over }: RunOnRecord): void {
  if (over || status === "running") return;
  throw new AppError(
    "unavailable",
    `${run_id} is ${status}: there is nothing of it to look at yet. Ask again when it runs; see: cofferdam run show ${run_id}`,
  );
}

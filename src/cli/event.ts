import { defineCommand } from "citty";
import { exportEvents, key } from "./event-export.ts";
import { verify } from "./event-verify.ts";

export const event = defineCommand({
  meta: { name: "event", description: "The audit log: what happened, and proof of it" },
  subCommands: { verify, export: exportEvents, key },
});

import { defineCommand } from "citty";
import { exportEvents, key } from "./event-export.ts";
import { list } from "./event-list.ts";
import { tail } from "./event-tail.ts";
import { verify } from "./event-verify.ts";

export const event = defineCommand({
  meta: { name: "event", description: "The audit log: what happened, and proof of it" },
  subCommands: { list, tail, verify, export: exportEvents, key },
});

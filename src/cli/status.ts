import { defineCommand } from "citty";
import { z } from "zod";
import { operations } from "../protocol/sandboxd.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print, shortSize } from "./output.ts";
import { strict } from "./strict.ts";

const statusAnswer = z.object({
  instance: z.string(),
  listen: z.string(),
  url: z.string(),
  uptime_s: z.number(),
  memory_bytes: z.number(),
  not_ready: z.array(z.string()),
  notices: z.array(z.string()),
  exec: z.object({ running: z.number(), waiting: z.number(), warm: z.number() }),
  runs: z.object({ live: z.number(), waiting: z.number(), spare: z.number() }),
  disk: z.object({ free_bytes: z.number(), total_bytes: z.number() }),
  events: z.object({ total: z.number(), chains: z.number() }),
  webhooks: z.object({ enabled: z.number(), in_flight: z.number(), overdue_s: z.number() }),
  sandboxes: z.union([operations.status.result, z.string()]),
});

export const status = defineCommand({
  meta: { name: "status", description: "What runs now" },
  plugins: [strict],
  args: { ...dataArgument, ...jsonArgument },
  async run({ args }) {
    const answer = await connect(args.data).ask(statusAnswer, "/admin/status");
    print(args.json, answer, () => {
      const { exec, runs, disk, events, webhooks, sandboxes } = answer;
      const lines = [
        ["instance", answer.instance],
        [
          "API",
          `${answer.url}, up ${duration(answer.uptime_s)}, ${shortSize(answer.memory_bytes)} of memory`,
        ],
        ["ready", answer.not_ready.length === 0 ? "yes" : `no: ${answer.not_ready.join("; ")}`],
        ...answer.notices.map((notice) => ["notice", notice]),
        ["commands", `${exec.running} running, ${exec.waiting} waiting, ${exec.warm} warm namespaces`],
        ["runs", `${runs.live} living, ${runs.waiting} waiting, ${runs.spare} spare sandboxes`],
        ["disk", `${shortSize(disk.free_bytes)} free of ${shortSize(disk.total_bytes)}`],
        ["events", `${events.total} in ${events.chains} chains`],
        [
          "webhooks",
          `${webhooks.enabled} enabled, ${webhooks.in_flight} attempts under way, ` +
            (webhooks.overdue_s === 0 ? "none overdue" : `overdue by ${duration(webhooks.overdue_s)}`),
        ],
        ...(typeof sandboxes === "string"
          ? [["sandboxes", sandboxes]]
          : [
              [
                "sandboxes",
                `${sandboxes.sandboxes.length}, ${sandboxes.pool.ready} of ${sandboxes.pool.target} spares among them`,
              ],
              ["memory", `${shortSize(sandboxes.memory_available_bytes)} available`],
              [
                "versions",
                `cofferdam ${sandboxes.version}, runsc ${sandboxes.runsc}, root file system ${sandboxes.rootfs.slice(0, 19)}`,
              ],
            ]),
      ];
      return lines.map(([name = "", value = ""]) => `${name.padEnd(10)} ${value}`).join("\n");
    });
  },
});

function duration(seconds: number): string {
  const [days, hours, minutes] = [
    Math.floor(seconds / 86400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
  ];
  if (days > 0) return `${days} d ${hours} h`;
  return hours > 0 ? `${hours} h ${minutes} min` : minutes > 0 ? `${minutes} min` : `${seconds} s`;
}

import { defineCommand } from "citty";
import { dataArgument } from "./arguments.ts";
import { strict } from "./strict.ts";
import { environment } from "../config/environment.ts";
import { runConfined } from "./role.ts";

export const gateway = defineCommand({
  meta: { name: "gateway", description: "The gateway's process", hidden: true },
  plugins: [strict],
  args: dataArgument,
  async run({ args, rawArgs }) {
    const options = {
      role: "gateway",
      data: args.data,
      args: ["gateway", ...rawArgs],
      env: environment(),
    } as const;
    await runConfined(options, async ({ instance, log }) => {
      const { startGateway } = await import("../gateway/gateway.ts");
      return startGateway({ instance, log });
    });
  },
});

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
    await runConfined(options, async ({ instance, env, log }) => {
      const { takeKey } = await import("../gateway/key.ts");
      const privateKey = takeKey(instance.publishedGatewayKey);
      const { loadConfig } = await import("../config/load.ts");
      const { confinementCheck } = await import("../kernel/verify.ts");
      const { readPublishedPrices } = await import("../prices/published.ts");
      const { startGateway } = await import("../gateway/gateway.ts");
      // A copy that root made: what it was copied from is out of sight.
      const load = () =>
        loadConfig({ file: instance.gatewayConfig, shownAs: instance.configFile, env }).config;
      const readPrices = () => readPublishedPrices(instance.gatewayPrices);
      const prices = { current: readPrices() };
      const running = startGateway({
        instance,
        config: load(),
        privateKey,
        prices: { of: (model) => prices.current.of(model) },
        log,
        confinement: () => [confinementCheck("gateway", instance)],
      });
      return {
        ...running,
        async reload() {
          await running.reload(load());
          prices.current = readPrices();
        },
      };
    });
  },
});

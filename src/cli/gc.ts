import { defineCommand } from "citty";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { counted, jsonArgument, print, shortSize } from "./output.ts";
import { strict } from "./strict.ts";

const collected = z.object({
  namespaces: z.number(),
  failed: z.number(),
  blobs: z.number(),
  bytes: z.number(),
});

export const gc = defineCommand({
  meta: {
    name: "gc",
    description:
      "Delete stored content that no snapshot needs any more. The appliance does so by itself, too",
  },
  plugins: [strict],
  args: { ...dataArgument, ...jsonArgument },
  async run({ args }) {
    const answer = await connect(args.data).ask(collected, "/admin/gc", { method: "POST" });
    const { namespaces, blobs, bytes, failed } = answer;
    print(
      args.json,
      answer,
      () =>
        `Deleted: ${counted(blobs, "blob")}, ${shortSize(bytes)}; looked at ${counted(namespaces, "namespace")}.`,
    );
    if (failed > 0)
      throw new AppError(
        "unavailable",
        `In ${counted(failed, "namespace")} it failed; the appliance's log says why.`,
      );
  },
});

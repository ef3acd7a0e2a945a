import { defineCommand } from "citty";
import { AppError } from "../errors.ts";
import { openInstance } from "../instance/instance.ts";
import { rotateMasterKey } from "../instance/rotation.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print } from "./output.ts";
import { strict } from "./strict.ts";

export const rotateMaster = defineCommand({
  meta: { name: "rotate-master", description: "Give the instance a new master key; no data is touched" },
  plugins: [strict],
  args: { ...dataArgument, ...jsonArgument },
  run({ args }) {
    if (process.getuid?.() !== 0) {
      throw new AppError("forbidden", "The master key is root's; run this with sudo.");
    }
    const instance = openInstance(args.data);
    const { resumed } = rotateMasterKey(instance);
    const { masterKeyFile: file, keyringFile } = instance;
    print(args.json, { master_key: file, keyring: keyringFile, resumed }, () =>
      [
        resumed ? "The rotation that was begun earlier is done." : "The instance has a new master key.",
        `Keep a copy of ${file} where the data is not; copies of the old one open only older copies of ${keyringFile}.`,
        "Running roles need no restart.",
      ].join("\n"),
    );
  },
});

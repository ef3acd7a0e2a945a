import { z } from "zod";
import type { LoadedConfig } from "./load.ts";

export const setting = z.object({
  key: z.string(),
  value: z.union([z.string(), z.number(), z.boolean()]),
  origin: z.string(),
});
export type Setting = z.infer<typeof setting>;

/** Every setting in force, as `section.key`, with where it came from. */
export function settingsOf({ config, origin }: LoadedConfig): Setting[] {
  return Object.entries(config).flatMap(([section, table]) =>
    Object.entries(table).map(([key, value]) => ({
      key: `${section}.${key}`,
      value,
      origin: origin.get(`${section}.${key}`) ?? "default",
    })),
  );
}

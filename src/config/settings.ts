import { z } from "zod";
import type { LoadedConfig } from "./load.ts";

export const setting = z.object({
  key: z.string(),
  value: z.union([z.string(), z.number(), z.boolean(), z.array(z.string())]),
  origin: z.string(),
});
export type Setting = z.infer<typeof setting>;

/**
 * Whether a change waits for a restart: the listeners', and of what sandboxd goes by. Others are taken at a reload.
 * TLS is turned on and off by a start, but goes on with other files; so do the bucket's credentials and the
 * database server's.
 */
function waits(key: string, before: Setting["value"], now: Setting["value"]): boolean {
  if (isSame(before, now)) return false;
  if (/^http\.tls_(cert|key)$/.test(key)) return before === "" || now === "";
  if (["storage.credentials_file", "database.auth_token_file", "database.ca_file"].includes(key))
    return false;
  return /^(http\.|database\.|storage\.|exec\.(memory_mb|pids|cpus|file_mb|pool|directfs)$|runs\.(subnet|prefix|gateway_port|pool|timeout_s|memory_mb|cpus|pids|disk_mb)$)/.test(
    key,
  );
}

/** Every setting in force after a reload: those that are read at a start are as they were, and say what waits. */
export function settingsInForce(started: LoadedConfig, reloaded: LoadedConfig): Setting[] {
  const atStart = new Map(settingsOf(started).map((one) => [one.key, one]));
  return settingsOf(reloaded).map((now) => {
    const before = atStart.get(now.key) ?? now;
    if (!waits(now.key, before.value, now.value)) return now;
    const waiting = `${JSON.stringify(now.value)} waits for a restart (${now.origin})`;
    return { ...before, origin: `${before.origin}; ${waiting}` };
  });
}

/** The settings that a restart would change. */
export function waitingForRestart(started: LoadedConfig, reloaded: LoadedConfig): string[] {
  const atStart = new Map(settingsOf(started).map(({ key, value }) => [key, value]));
  return settingsOf(reloaded)
    .filter(({ key, value }) => waits(key, atStart.get(key) ?? "", value))
    .map(({ key }) => key);
}

function isSame(a: Setting["value"], b: Setting["value"]): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Every setting, as `section.key`, with where it came from. */
export function settingsOf({ config, origin }: LoadedConfig): Setting[] {
  return Object.entries(config).flatMap(([section, table]) =>
    Object.entries(table).map(([key, value]) => ({
      key: `${section}.${key}`,
      value,
      origin: origin.get(`${section}.${key}`) ?? "default",
    })),
  );
}

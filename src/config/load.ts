import { existsSync, readFileSync } from "node:fs";
import { parse, TomlError } from "smol-toml";
import type { z } from "zod";
import { AppError } from "../errors.ts";
import { configSchema, type Config } from "./schema.ts";

/** `--listen` and the like: the section's key, its value and how the caller spelled it. */
export interface Override {
  readonly key: string;
  readonly value: unknown;
  readonly from: string;
}

export interface LoadedConfig {
  readonly config: Config;
  /** For each `section.key`: "default", "FILE:LINE", "COFFERDAM_…" or the command line's option. */
  readonly origin: ReadonlyMap<string, string>;
}

export interface ConfigSources {
  /** A file that somebody named, so it has to be there. */
  readonly file?: string | undefined;
  /** The instance's own, read instead when it is there and no other was named. */
  readonly defaultFile?: string | undefined;
  /** What messages call the file, where it is a copy of one that an operator edits. */
  readonly shownAs?: string | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly overrides?: readonly Override[];
}

type Tables = Record<string, Record<string, unknown>>;

/** The file, then the environment, then the command line; the first thing that is wrong stops it with a sentence. */
export function loadConfig({ file, defaultFile, shownAs, env, overrides = [] }: ConfigSources): LoadedConfig {
  const origin = new Map<string, string>();
  const tables: Tables = {};
  const set = (section: string, key: string, value: unknown, from: string) => {
    tables[section] = { ...tables[section], [key]: value };
    origin.set(`${section}.${key}`, from);
  };

  const chosen = file ?? (defaultFile !== undefined && existsSync(defaultFile) ? defaultFile : undefined);
  if (chosen !== undefined) readFile(chosen, shownAs ?? chosen, set);
  for (const { section, key, value, name } of settingsOf(env)) set(section, key, value, name);
  for (const { key, value, from } of overrides) {
    const [section = "", name = ""] = key.split(".");
    set(section, name, value, from);
  }

  const result = configSchema.safeParse(tables, { reportInput: true });
  if (!result.success) throw invalid(result.error, origin);
  for (const key of allKeys()) if (!origin.has(key)) origin.set(key, "default");
  return { config: freeze(result.data), origin };
}

function readFile(
  path: string,
  file: string,
  set: (section: string, key: string, value: unknown, from: string) => void,
): void {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "there is no such file" : `it cannot be read (${code})`;
    throw new AppError("not_found", `Configuration ${file}: ${why}.`, { cause: error });
  }
  for (const [section, content] of Object.entries(parseToml(text, file))) {
    if (content === null || typeof content !== "object" || Array.isArray(content)) {
      throw new AppError(
        "invalid",
        `${file}:${lineOf(text, [section])}: "${section}" stands outside of a section; ` +
          `put settings under one of ${bracketed(sections())}.`,
      );
    }
    for (const [key, value] of Object.entries(content)) {
      set(section, key, value, `${file}:${lineOf(text, [section, key])}`);
    }
    if (!sections().includes(section)) {
      throw new AppError(
        "invalid",
        `${file}:${lineOf(text, [section])}: there is no section [${section}]; the sections are ${bracketed(sections())}.`,
      );
    }
  }
}

function parseToml(text: string, file: string): Record<string, unknown> {
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const what = error.message.split("\n")[0]?.replace("Invalid TOML document: ", "");
    throw new AppError("invalid", `${file}:${error.line}: not TOML: ${what}.`, { cause: error });
  }
}

/** The line on which a key's value ends: the first that makes the text up to there hold it, however it is spelled. */
function lineOf(text: string, path: readonly string[]): number {
  const lines = text.split("\n");
  for (let count = 1; count <= lines.length; count++) {
    let value: unknown;
    try {
      value = parse(lines.slice(0, count).join("\n"));
    } catch {
      // In the middle of a value of several lines.
      continue;
    }
    for (const name of path) value = (value as Record<string, unknown> | undefined)?.[name];
    if (value !== undefined) return count;
  }
  return lines.length;
}

/**
 * COFFERDAM_EXEC_TIMEOUT_S=60 is `timeout_s = 60` in [exec]; no section's name has an underscore. What names no section
 * is somebody else's, as COFFERDAM_DATA.
 */
function* settingsOf(env: ConfigSources["env"]) {
  for (const [name, text] of Object.entries(env)) {
    const match = /^COFFERDAM_([A-Z0-9]+)_(.+)$/.exec(name);
    if (match === null || text === undefined) continue;
    const [section, key] = [match[1]?.toLowerCase() ?? "", match[2]?.toLowerCase() ?? ""];
    if (!sections().includes(section)) continue;
    if (!keysOf(section).includes(key)) {
      throw new AppError(
        "invalid",
        `The environment's ${name}: [${section}] has no key "${key}"; its keys are ${keysOf(section).join(", ")}.`,
      );
    }
    yield { section, key, name, value: valueOf(section, key, text) };
  }
}

/** Text for a setting that is text, else what TOML reads in it; the schema judges both. */
function valueOf(section: string, key: string, text: string): unknown {
  if (fieldOf(section, key)?.safeParse(text).success === true) return text;
  try {
    return parse(`value = ${text}`)["value"];
  } catch {
    return text;
  }
}

function invalid(error: z.ZodError, origin: ReadonlyMap<string, string>): AppError {
  const issue = error.issues[0];
  const [section = "", key] = (issue?.path ?? []).map(String);
  if (issue?.code === "unrecognized_keys") {
    const unknown = issue.keys[0] ?? "";
    return new AppError(
      "invalid",
      `${origin.get(`${section}.${unknown}`)}: [${section}] has no key "${unknown}"; ` +
        `its keys are ${keysOf(section).join(", ")}.`,
    );
  }
  const from = origin.get(`${section}.${key}`) ?? "configuration";
  const value = issue?.input === undefined ? "" : ` = ${JSON.stringify(issue.input)}`;
  return new AppError("invalid", `${from}: [${section}] ${key}${value}: ${wanted(issue)}.`);
}

/** What is allowed, in words; zod's own for whatever has none here. */
function wanted(issue: z.core.$ZodIssue | undefined): string {
  if (issue?.code === "too_small") return `the least is ${issue.minimum}`;
  if (issue?.code === "too_big") return `the most is ${issue.maximum}`;
  if (issue?.code === "invalid_type") {
    return `expected a ${issue.expected === "int" ? "whole number" : issue.expected}`;
  }
  return issue?.message ?? "not allowed";
}

function sections(): string[] {
  return Object.keys(configSchema.shape);
}

function keysOf(section: string): string[] {
  const table = (configSchema.shape as Record<string, { unwrap(): z.ZodObject } | undefined>)[section];
  return table === undefined ? [] : Object.keys(table.unwrap().shape);
}

function fieldOf(section: string, key: string): z.ZodType | undefined {
  const table = (configSchema.shape as Record<string, { unwrap(): z.ZodObject } | undefined>)[section];
  return table?.unwrap().shape[key] as z.ZodType | undefined;
}

function allKeys(): string[] {
  return sections().flatMap((section) => keysOf(section).map((key) => `${section}.${key}`));
}

function bracketed(names: readonly string[]): string {
  return names.map((name) => `[${name}]`).join(", ");
}

function freeze(config: Config): Config {
  for (const section of Object.values(config)) Object.freeze(section);
  return Object.freeze(config);
}

import { AppError } from "../errors.ts";
import { encodeLaunch, type Launch } from "../protocol/launch.ts";
import type { Adapter } from "./agents/adapter.ts";
import { environmentOf, gatewayUrls } from "./environment.ts";
import type { RunGrants, RunLimits } from "./grants.ts";
import type { Given } from "./given.ts";
import type { RunSpec } from "./run.ts";
import type { RunId } from "../ids.ts";

export type Adapters = Readonly<Partial<Record<NonNullable<RunSpec["agent"]>["kind"], Adapter>>>;

export interface LaunchParts {
  readonly run: RunId;
  readonly spec: RunSpec;
  readonly grants: RunGrants;
  readonly limits: RunLimits;
  readonly given: Given;
  /** Where the gateway answers this run. */
  readonly host: string;
  readonly port: number;
  readonly adapters: Adapters;
}

const WORK = "/work";
const MIB = 1024 * 1024;

/** What the run's first process is told to start. Throws AppError for what can't be started. */
export function launchOf(parts: LaunchParts): Launch {
  const { run, spec, grants, limits, given, host, port } = parts;
  const { argv, env } = commandOf(parts);
  const variables = environmentOf({ run, host, port, token: given.token, grants, env: given.env });
  return {
    argv,
    // Ours are last, whatever an adapter sets.
    env: { ...env, ...variables },
    cwd: WORK,
    stdin: spec.stdin !== "none",
    processes: limits.pids,
    fileBytes: limits.disk_mb * MIB,
  };
}

function commandOf({ spec, given, grants, host, port, adapters }: LaunchParts): ReturnType<Adapter> {
  const { agent } = spec;
  if (agent === null) return { argv: ["bash", "-c", given.text], env: {} };
  const adapter = adapters[agent.kind];
  if (adapter === undefined) {
    throw new AppError("invalid", `The field "agent.kind": this appliance's run image has no ${agent.kind}.`);
  }
  return adapter({ prompt: given.text, llm: grants.llm, urls: gatewayUrls({ host, port }) });
}

/** Linux takes no longer argument or variable than this, its NUL included. */
const MAX_STRING_BYTES = 128 * 1024;
/** Stands for what a run's is not longer than. */
const LONGEST_HOST = "255.255.255.255";

/** Throws AppError for a run that could never be launched, naming the field. Before there is a row of it. */
export function checkLaunch(parts: Omit<LaunchParts, "host">): void {
  const { spec, given } = parts;
  if (Buffer.byteLength(given.text) >= MAX_STRING_BYTES) {
    throw new AppError(
      "invalid",
      `The field "${spec.agent === null ? "command" : "agent.prompt"}": has more than 128 KiB; put it into a file.`,
    );
  }
  const long = Object.entries(given.env).find(
    ([name, value]) => Buffer.byteLength(name) + Buffer.byteLength(value) + 2 > MAX_STRING_BYTES,
  );
  if (long !== undefined) {
    throw new AppError("invalid", `The field "env.${long[0].slice(0, 100)}": has more than 128 KiB.`);
  }
  const launch = launchOf({ ...parts, host: LONGEST_HOST });
  try {
    encodeLaunch(launch);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new AppError("invalid", 'The field "env": with the command it has more than a MiB.', {
      cause: error,
    });
  }
}

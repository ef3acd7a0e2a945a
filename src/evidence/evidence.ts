import { AppError } from "../errors.ts";
import type { RunId } from "../ids.ts";
import type { RunOnRecord } from "../protocol/evidence.ts";
import type { Appliance } from "../prove/appliance.ts";
import type { Library } from "../sandboxd/library.ts";
import { networkNames } from "../sandboxd/network/names.ts";
import { runNames } from "../sandboxd/run/names.ts";
import { gatewaySection, grantSection } from "./gateway.ts";
import { imageSection } from "./image.ts";
import { lookInside } from "./inside.ts";
import { limitSection } from "./limits.ts";
import { besideNeighbour } from "./neighbour.ts";
import { filterSection, networkSection } from "./network.ts";
import { receiptSection, remainsSection } from "./over.ts";
import { fileSection, processSection } from "./processes.ts";
import { droppedForNeighbours, neighbourSection, type Tried } from "./reach.ts";
import type { Host, LiveRun } from "./run.ts";
import { environmentSection, hostPaths, refusalSection, tokenSection } from "./sandbox.ts";
import type { Section } from "./section.ts";
import { specSection } from "./spec.ts";

export interface EvidenceOptions {
  readonly onRecord: RunOnRecord;
  readonly host: Host;
  readonly library: Library;
  readonly appliance: Appliance;
  readonly hashImage: boolean;
  /** Sections by their names; null for all. */
  readonly only: readonly string[] | null;
}

export interface Evidence {
  readonly run_id: string;
  readonly taken_at: string;
  /** Whether it ran when this was taken. */
  readonly live: boolean;
  /** false when a claim does not hold, null when there are only some that could not be looked at. */
  readonly holds: boolean | null;
  readonly run: Pick<
    RunOnRecord,
    | "workspace_id"
    | "namespace"
    | "status"
    | "exit_code"
    | "error"
    | "created_at"
    | "started_at"
    | "finished_at"
  >;
  readonly sections: readonly Section[];
}

/** What this host shows of a run now, as root. */
export async function takeEvidence(options: EvidenceOptions): Promise<Evidence> {
  const { onRecord } = options;
  const taken_at = new Date().toISOString();
  const id = onRecord.run_id as RunId;
  const sections: Section[] = [];
  for (const make of chosen(onRecord.over ? ofOver(id, options) : ofLive(id, options), options.only))
    sections.push(await make());
  const { run_id, workspace_id, namespace, status, exit_code, error, created_at, started_at, finished_at } =
    onRecord;
  const verdicts = sections.map(({ holds }) => holds);
  return {
    run_id,
    taken_at,
    live: !onRecord.over,
    holds: verdicts.includes(false) ? false : verdicts.includes(null) ? null : true,
    run: { workspace_id, namespace, status, exit_code, error, created_at, started_at, finished_at },
    sections,
  };
}

/** Each is made when it is asked for. */
type Sections = Readonly<Record<string, () => Promise<Section>>>;

function ofOver(id: RunId, { onRecord, host }: EvidenceOptions): Sections {
  return {
    remains: async () => remainsSection(id, onRecord, host),
    receipt: async () => receiptSection(onRecord),
    grants: async () => grantSection(onRecord),
  };
}

function ofLive(id: RunId, options: EvidenceOptions): Sections {
  const { onRecord, host, library, hashImage } = options;
  const { network } = onRecord;
  if (network === null) throw new Error(`${id} has no network on record`);
  const names = { ...runNames(host.instance, id), net: networkNames(host.instance.inst, id) };
  const run: LiveRun = { id, onRecord, network, names, host };
  // What is asked from inside is asked once, while there is a neighbour.
  const state: { tried?: Promise<Tried> } = {};
  const tried = async () => (state.tried ??= tryInside(run, options));
  const inside = async () => (await tried()).inside;
  return {
    processes: async () => processSection(run),
    files: async () => fileSection(run),
    image: async () => imageSection(run, { library, hashed: hashImage }),
    spec: async () => specSection(run),
    limits: async () => limitSection(run),
    network: async () => networkSection(run),
    filter: async () => filterSection(run),
    gateway: async () => gatewaySection(run),
    grants: async () => grantSection(onRecord),
    environment: async () => environmentSection(run, inside),
    "host-paths": async () => refusalSection(run, inside),
    neighbour: async () => neighbourSection(run, tried),
    token: async () => tokenSection(run, inside),
  };
}

function chosen(all: Sections, only: readonly string[] | null) {
  const slip = only?.find((name) => !Object.hasOwn(all, name));
  if (slip !== undefined) {
    throw new AppError("bad_input", `There is no section ${slip}; there are ${Object.keys(all).join(", ")}.`);
  }
  return Object.entries(all).flatMap(([name, make]) => (only === null || only.includes(name) ? [make] : []));
}

async function tryInside(run: LiveRun, { appliance, host }: EvidenceOptions): Promise<Tried> {
  return besideNeighbour({ run: run.id, host, appliance }, async (neighbour) => {
    const before = await droppedForNeighbours(run);
    const { gateway_port: port } = host.config;
    const inside = await lookInside(run, {
      paths: hostPaths(run),
      reach: {
        "own gateway": [run.network.host, port],
        "neighbour's gateway": [neighbour.listener.address, port],
      },
    });
    return { neighbour, before, inside };
  });
}

import { randomBytes } from "node:crypto";
import { rmSync, writeFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import type { Config } from "../config/schema.ts";
import { runId, type RunId } from "../ids.ts";
import type { RunNetwork } from "../protocol/sandboxd.ts";
import { networkNames, type NetworkNames } from "../sandboxd/network/names.ts";
import { runNames, type RunNames } from "../sandboxd/run/names.ts";
import { readRecord } from "../sandboxd/run/record.ts";
import type { Place } from "./appliance.ts";
import { reportOf, withSeen, type Report } from "./look.ts";
import { openOutside, type Outside } from "./outside.ts";
import common from "./probes/common.py" with { type: "text" };
import neighbourProbe from "./probes/neighbour.py" with { type: "text" };
import attackerProbe from "./probes/run.py" with { type: "text" };
import { createProofRuns, type ProofRun } from "./runs.ts";
import { attackByWire, type Arrived } from "./wire-attacks.ts";
import { wireOf, type Wire } from "./wire.ts";

/** A run that lives, and what the host has of it. */
export interface Standing {
  readonly run: ProofRun;
  readonly names: RunNames;
  readonly links: NetworkNames;
  readonly network: RunNetwork;
  readonly wire: Wire;
}

/** Two runs beside each other, as agents run: one has attacked, the other is its neighbour. Both still live. */
export interface Stage {
  readonly place: Place;
  readonly outside: Outside;
  readonly attacker: Standing;
  readonly neighbour: Standing;
  readonly neighbourToken: string;
  /** What the attacker saw. */
  readonly report: Report;
  /** What came out where. */
  readonly arrived: Arrived;
  /** The credential that the gateway has for both, and a text that the attacker has in its memory. */
  readonly secret: string;
  readonly planted: string;
  /** In a file of the attacker's, and in one of the host's to which the attacker leaves links. */
  readonly ownText: string;
  readonly hostText: string;
  /** When the secret was made: no file that has not changed since can hold it. */
  readonly since: number;
  close(): Promise<void>;
}

/** What each asks for. Small, and not the same. */
export function limitsOf({ runs }: Config, who: "attacker" | "neighbour") {
  const most = Math.min(256, runs.memory_mb);
  const memory_mb = who === "attacker" ? most : Math.floor(most * 0.75);
  return { timeout_s: TIMEOUT_S, memory_mb, cpus: Math.min(1, runs.cpus), pids: runs.pids };
}

const credential = z.object({ credential_id: z.string() });
const TIMEOUT_S = 180;

export async function openStage(place: Place): Promise<Stage> {
  const { appliance, workspace, tag } = place;
  const since = Date.now() - 1000;
  const secret = word();
  const [planted, ownText, hostText] = [word(), word(), word()];
  const closing: (() => unknown)[] = [];
  async function close(): Promise<void> {
    for (const each of closing.toReversed()) await each();
  }

  try {
    const listener = Bun.listen({ hostname: "0.0.0.0", port: 0, socket: { data() {} } });
    closing.push(() => listener.stop(true));
    const hostFile = join(appliance.instance.data, `${tag}.txt`);
    writeFileSync(hostFile, hostText, { mode: 0o644 });
    closing.push(() => rmSync(hostFile, { force: true }));
    const outside = await openOutside(appliance.instance.inst);
    closing.push(() => outside[Symbol.asyncDispose]());

    // Never dialled: the gateway refuses all that is asked for before that.
    const credentials = `/v1/workspaces/${workspace}/credentials`;
    const made = { name: tag, kind: "anthropic", secret, base_url: "https://8.8.8.8" };
    const { credential_id: id } = await appliance.ask(credential, credentials, {
      method: "POST",
      json: made,
    });
    closing.push(() => appliance.ask(z.unknown(), `${credentials}/${id}`, { method: "DELETE" }));
    await appliance.ask(z.unknown(), "/admin/exec", {
      method: "POST",
      headers: { "x-workspace": workspace, "x-namespace": tag },
      json: { command: `touch workspace/${tag}` },
    });

    const start = createProofRuns(place);
    async function stand(
      who: "attacker" | "neighbour",
      namespace: string,
      source: string,
    ): Promise<Standing> {
      const run = await start(namespace, {
        command: `exec python3 -c ${quoted(`${common}\n${source}`)}`,
        stdin_open: true,
        llm: { credential: tag, models: ["granted"] },
        limits: limitsOf(place.config, who),
      });
      closing.push(() => run.cancel());
      await run.line("READY");
      return standing(place, run, closing);
    }
    const [attacker, neighbour] = await Promise.all([
      stand("attacker", tag, attackerProbe),
      stand("neighbour", `${tag}-neighbour`, neighbourProbe),
    ]);
    await outside.lead(attacker.links.veth);
    const { seen: theirs } = reportOf(await neighbour.run.line("PROBE "));
    const [, port = "0"] = theirs["gateway"]?.split(":") ?? [];
    const targets = {
      neighbour: `tcp/${neighbour.network.run}/7777`,
      "neighbour's gateway": `tcp/${neighbour.network.host}/${port}`,
      "neighbour's proxy": `tcp/${neighbour.network.host}/${Number(port) + 1}`,
      "host by its own address": `tcp/${ownAddress()}/${listener.port}`,
      "host by loopback": `tcp/127.0.0.1/${listener.port}`,
      metadata: "tcp/169.254.169.254/80",
      "another metadata": "tcp/100.100.100.200/80",
      internet: "tcp/8.8.8.8/443",
      "internet by UDP": "udp/8.8.8.8/443",
      DNS: "udp/9.9.9.9/53",
      "DNS by TCP": "tcp/9.9.9.9/53",
      "DNS at the gateway": `udp/${attacker.network.host}/53`,
    };
    const arrived = await attackByWire(
      { outside, attacker, neighbour, gatewayPort: Number(port), hostPort: listener.port },
      async () => {
        await attacker.run.tell({
          tag,
          forked: tag,
          host_path: hostFile,
          host_port: listener.port,
          secret_halves: [secret.slice(secret.length / 2), secret.slice(0, secret.length / 2)],
          planted,
          own_text: ownText,
          database: appliance.instance.api.database,
          stolen: theirs["token"],
          targets,
        });
        await attacker.run.line("PROBE ");
      },
    );
    const seen = reportOf(await attacker.run.line("PROBE "));
    const report = withSeen(seen, {
      "own listener": theirs["own listener"] ?? "not tried",
      "host's listener": await answers(listener.port),
    });
    return {
      neighbourToken: theirs["token"] ?? "",
      place,
      outside,
      attacker,
      neighbour,
      report,
      arrived,
      secret,
      planted,
      ownText,
      hostText,
      since,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function word(): string {
  return randomBytes(24).toString("hex");
}

function standing({ appliance: { instance } }: Place, run: ProofRun, closing: (() => unknown)[]): Standing {
  const id: RunId = runId.schema.parse(run.id);
  const names = runNames(instance, id);
  const links = networkNames(instance.inst, id);
  const network = readRecord(names)?.network;
  if (network === undefined) throw new Error(`sandboxd has no record of ${id}`);
  const wire = wireOf(links.netns, links.veth);
  closing.push(() => wire[Symbol.dispose]());
  return { run, names, links, network, wire };
}

async function answers(port: number): Promise<string> {
  const socket = await Bun.connect({ hostname: "127.0.0.1", port, socket: { data() {} } });
  socket.end();
  return "done";
}

/** For bash. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

/** One that is not the runs' network's and not loopback's, where the host has one. */
function ownAddress(): string {
  const all = Object.entries(networkInterfaces())
    .filter(([name]) => !/^c[dp][0-9a-f]{4}/.test(name))
    .flatMap(([, of]) => of ?? []);
  return all.find(({ family, internal }) => family === "IPv4" && !internal)?.address ?? "192.0.2.1";
}

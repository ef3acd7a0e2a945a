import { runCommand } from "../sandboxd/runner.ts";
import { dropsIn, readShown } from "../sandboxd/network/shown.ts";
import type { Claim, Seen } from "./claim.ts";
import type { Report } from "./look.ts";
import type { Stage } from "./stage.ts";
import { FAR, INTERNET, METADATA, PINGED, RESOLVER, STRANGER } from "./wire-attacks.ts";

type Where = "away" | "beside" | "attacker" | "neighbour";

/** A claim about what came out on the wires. */
interface Arrival {
  readonly id: string;
  readonly claim: string;
  readonly attack: string;
  /** What the attacker tried itself, by the report's names; it must have got nowhere. */
  readonly tried?: readonly string[];
  /** What must not have come out where. */
  readonly never: readonly (readonly [Where, (frame: string) => boolean])[];
  readonly control: string;
  readonly came: readonly (readonly [Where, string])[];
}

/** What the walls do, seen from where packets would come out that got past them. */
export function networkClaims(stage: Stage): Claim[] {
  const { attacker, neighbour, arrived, report, outside } = stage;
  const { own, host } = outside.besideAddresses;
  const [mine, theirs] = [attacker.network, neighbour.network];
  const to =
    (...addresses: readonly string[]) =>
    (frame: string) =>
      addresses.some((address) => frame.endsWith(` ${address}`));
  const from =
    (...addresses: readonly string[]) =>
    (frame: string) =>
      addresses.some((address) => frame.includes(` ${address} `));
  const [forged, answersTo] = [
    [arrived.sibling, theirs.run, STRANGER, own, "127.0.0.1"],
    [arrived.sibling, STRANGER],
  ];

  const arrivals: Arrival[] = [
    {
      id: "network.metadata",
      claim: "A run does not reach a cloud's metadata service.",
      attack: "connect to it from inside, and by frames on its wire; look at where it would come out",
      tried: ["reach metadata", "reach another metadata"],
      never: [["away", to(...METADATA)]],
      control: "the same from a machine beside the host comes out there",
      came: METADATA.map((address) => ["away", `tcp ${own} ${address}`]),
    },
    {
      id: "network.internet",
      claim: "Without a lane a run reaches no address of the internet.",
      attack: "connect and send datagrams from inside, and frames on its wire",
      tried: ["reach internet", "reach internet by UDP"],
      never: [["away", to(INTERNET)]],
      control: "the same from a machine beside the host comes out",
      came: [
        ["away", `tcp ${own} ${INTERNET}`],
        ["away", `udp ${own} ${INTERNET}`],
      ],
    },
    {
      id: "network.dns",
      claim: "A run reaches no name server.",
      attack: "ask one by UDP and TCP from inside, and by frames on its wire",
      tried: ["reach DNS", "reach DNS by TCP", "reach DNS at the gateway"],
      never: [["away", to(RESOLVER)]],
      control: "the same from a machine beside the host comes out",
      came: [
        ["away", `udp ${own} ${RESOLVER}`],
        ["away", `tcp ${own} ${RESOLVER}`],
      ],
    },
    {
      id: "network.icmp",
      claim: "A run pings nobody, and nobody answers.",
      attack:
        "send echo requests on its wire to the internet, its gateway, a neighbour and a neighbour's gateway",
      never: [
        ["away", (frame) => frame.startsWith(`icmp ${mine.run} `)],
        ["attacker", (frame) => frame.startsWith("icmp ") && frame.endsWith(` ${mine.run}`)],
        ["neighbour", (frame) => frame.startsWith("icmp ")],
      ],
      control: "a machine beside the host pings the internet",
      came: [["away", `icmp ${own} ${PINGED}`]],
    },
    {
      id: "network.forged",
      claim: "A packet of a run with any address but its own dies at its wire.",
      attack: "send frames from its wire with other addresses, to its gateway, out, and to a neighbour",
      never: [
        ["away", from(...forged)],
        [
          "attacker",
          (frame) => answersTo.some((address) => frame === `arp ${address}` || frame.endsWith(` ${address}`)),
        ],
        ["neighbour", (frame) => from(mine.host, ...forged)(frame)],
        ["beside", (frame) => frame === `tcp ${mine.host} ${own}`],
      ],
      control: "one with its own address is answered; any address comes out from beside the host",
      came: [
        ["attacker", `tcp ${mine.host} ${mine.run}`],
        ["away", `tcp ${own} ${FAR}`],
      ],
    },
    {
      id: "network.neighbour",
      claim: "No packet of a run comes to a neighbour, and none of a neighbour's gateway answers it.",
      attack: "send frames to the neighbour, and to its gateway's ports",
      never: [
        ["neighbour", from(mine.run)],
        ["away", to(theirs.run, theirs.host)],
        ["attacker", from(theirs.host, theirs.run)],
      ],
      control: "the neighbour's own gateway answers on the neighbour's wire",
      came: [["neighbour", `tcp ${theirs.host} ${theirs.run}`]],
    },
    {
      id: "network.host-ports",
      claim: "Of the host a run reaches the gateway's two ports, at its own gateway's address.",
      attack: "send frames to a port on which the host listens at all its addresses",
      never: [["attacker", (frame) => frame === `tcp ${host} ${mine.run}`]],
      control: "the port answers a machine beside the host, and the gateway's port answers the run",
      came: [
        ["beside", `tcp ${host} ${own}`],
        ["attacker", `tcp ${mine.host} ${mine.run}`],
      ],
    },
    {
      id: "network.on-link",
      claim: "A machine on a network of the host's reaches no run and no run's gateway.",
      attack: "send what is for them to the host, from a machine beside it, also with a run's own address",
      never: [
        ["beside", from(mine.host, theirs.host, mine.run, theirs.run)],
        ["attacker", from(own, host)],
        ["neighbour", from(own, host)],
      ],
      control: "the same machine reaches a port of the host",
      came: [["beside", `tcp ${host} ${own}`]],
    },
  ];
  return [
    tokenElsewhere(stage),
    ...arrivals.map((arrival) => claimOf(arrival, arrived, report)),
    ipv6(stage),
    counted(stage),
  ];
}

function claimOf(
  { id, claim, attack, tried = [], never, control, came }: Arrival,
  arrived: Stage["arrived"],
  report: Report,
): Claim {
  return {
    id,
    claim,
    attack,
    control,
    try: async () => {
      const got = tried.filter((name) => report.seen[name] !== "unreachable");
      const out = never.flatMap(([where, is]) =>
        arrived.attack[where].filter(is).map((frame) => `${frame} (${where})`),
      );
      const missing = came.filter(([where, frame]) => !arrived.control[where].includes(frame));
      const bad = [...got.map((name) => `${name} → ${report.seen[name] ?? "not tried"}`), ...new Set(out)];
      return {
        attack: {
          ok: bad.length === 0,
          what: bad.length === 0 ? "nothing came out" : `came out: ${bad.join(", ")}`,
        },
        control: {
          ok: missing.length === 0,
          what:
            missing.length === 0 ? "it did" : `did not come: ${missing.map(([, frame]) => frame).join(", ")}`,
        },
        ms: arrived.ms,
      };
    },
  };
}

function ipv6({ arrived }: Stage): Claim {
  return {
    id: "network.ipv6",
    claim: "Nobody answers IPv6 on a run's wire.",
    attack: "ping all nodes of the link",
    control: "the host answers a machine beside it",
    try: async () => {
      const answered = (frames: readonly string[]) => frames.filter((frame) => frame === "ipv6").length;
      const [got, control] = [answered(arrived.attack.attacker), answered(arrived.control.beside)];
      return {
        attack: { ok: got === 0, what: `${got} answers` },
        control: { ok: control > 0, what: `${control} answers` },
      };
    },
  };
}

function tokenElsewhere({ neighbour, neighbourToken, report, place }: Stage): Claim {
  return {
    id: "network.token",
    claim: "A run's token is worth nothing to anybody but the run.",
    attack: "show a run's token to its gateway from the host",
    control: "from inside a run's own is known",
    try: async () => {
      const url = `http://${neighbour.network.host}:${place.config.runs.gateway_port}/v1/messages`;
      const answer = await fetch(url, {
        method: "POST",
        headers: { "x-api-key": neighbourToken, "content-type": "application/json" },
        body: JSON.stringify({
          model: "no-such-model",
          max_tokens: 1,
          messages: [{ role: "user", content: "x" }],
        }),
        signal: AbortSignal.timeout(1_500),
      }).then(
        ({ status }) => `${status}`,
        (error: unknown) => `no answer (${String(error)})`,
      );
      const inside = report.seen["right token"] ?? "not tried";
      return {
        attack: { ok: answer === "401" || answer.startsWith("no answer"), what: answer },
        control: { ok: inside === "400", what: inside },
      };
    },
  };
}

const REASONS = ["dns", "forged", "metadata", "neighbour", "other"];

/** That nothing came out may be the second wall's doing, or the kernel's; this is the first one's. */
function counted({ place, attacker }: Stage): Claim {
  return {
    id: "network.counted",
    claim: "The first wall drops each attack, and counts it as what it was.",
    attack: "read what the wall has counted of each kind",
    control: "it has counted what it let through to the gateway",
    try: async () => {
      const text = await runCommand(["iptables-save", "-c"], {
        timeoutMs: 10_000,
        maxOutputBytes: 32 * 1024 * 1024,
      });
      const shown = readShown(text, place.appliance.instance.inst);
      const { chain } = attacker.links;
      const drops = new Map(dropsIn(shown, chain).map(({ reason, packets }) => [reason as string, packets]));
      const let_through = (shown.raw.chains.get(chain) ?? [])
        .filter(({ target }) => target === "RETURN")
        .reduce((sum, { packets }) => sum + packets, 0);
      const attack: Seen = {
        ok: REASONS.every((reason) => (drops.get(reason) ?? 0) > 0),
        what: REASONS.map((reason) => `${reason} ${drops.get(reason) ?? 0}`).join(", "),
      };
      return { attack, control: { ok: let_through > 0, what: `${let_through} packets` } };
    },
  };
}

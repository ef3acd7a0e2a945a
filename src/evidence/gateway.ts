import { gatewayBehind, listenerAt } from "./listening.ts";
import type { LiveRun } from "./run.ts";
import type { RunOnRecord } from "../protocol/evidence.ts";
import { roleUser } from "../kernel/users.ts";
import { pairs, see, type Section } from "./section.ts";

const NANO = 1_000_000_000;
const NONE = "0".repeat(16);

export async function gatewaySection({ network, host }: LiveRun): Promise<Section> {
  const { gateway_port: port } = host.config;
  return see({
    name: "gateway",
    title: "The gateway, which holds the credentials",
    claim:
      "One process answers at the run's gateway: its own user, no capability, a seccomp filter, its memory closed to other processes of its user, to core dumps and to swap.",
    by_hand: [
      `ss -tlnp | grep ${network.host}`,
      `grep -E 'Uid|Cap|NoNew|Seccomp:|VmSwap' /proc/$(pgrep -f '[c]offerdam: gateway')/status`,
    ],
    look: () => {
      const [listener, proxy] = [listenerAt(network.host, port), listenerAt(network.host, port + 1)];
      if (listener === undefined) throw new Error(`nobody listens at ${network.host}:${port}`);
      const gateway = gatewayBehind(listener);
      const { uid } = roleUser("cofferdam-gw");
      const { capabilities } = gateway;
      const has = (ok: boolean, what: string) => (ok ? [] : [what]);
      return {
        facts: { listener, proxy: proxy ?? null, process: gateway },
        lines: pairs([
          [
            "listens",
            [listener, proxy]
              .flatMap((one) => (one === undefined ? [] : [`${one.address}:${one.port}`]))
              .join(" "),
          ],
          [
            "process",
            `${gateway.pid}, uid ${gateway.uid}, ${capabilities.permitted === NONE ? "no capability" : capabilities.permitted}`,
          ],
          ["no_new_privs", gateway.no_new_privs ? "1" : "0"],
          ["seccomp", gateway.seccomp],
          ["own namespaces", gateway.own_namespaces.join(" ")],
          ["memory", gateway.dumpable ? "open to its user" : "closed to its user, no core is written"],
          ["core limit", gateway.core_limit],
          ["swapped", gateway.swapped],
        ]),
        wrong: [
          ...has(gateway.uid === `${uid}`, `it is uid ${gateway.uid}`),
          ...has(capabilities.permitted === NONE && capabilities.bounding === NONE, "it has capabilities"),
          ...has(gateway.no_new_privs, "it may gain privileges"),
          ...has(gateway.seccomp === "filter", "it has no seccomp filter"),
          ...has(!gateway.dumpable, "its memory is open to its user"),
          ...has(/^0 |^not told$/.test(gateway.swapped), `${gateway.swapped} of it are swapped`),
        ],
      };
    },
  });
}

/** What it may, and what it has used of that. */
export async function grantSection(onRecord: RunOnRecord): Promise<Section> {
  return see({
    name: "grants",
    title: "What the gateway lets it do",
    claim: "The run reaches what it was granted and no more, within its budget.",
    by_hand: [`cofferdam run show ${onRecord.run_id} --json | jq '.usage, .denials'`],
    look: () => {
      const { grants, used } = onRecord;
      const most = grants.llm.map(({ max_usd_nano }) => max_usd_nano);
      const limit = most.every((one) => one !== null) ? most.reduce((sum, one) => sum + one, 0) : null;
      const { llm, git, egress } = used;
      return {
        facts: { grants, used },
        lines: [
          ...grants.llm.map(
            (one) =>
              `models by ${one.credential} (${one.dialect}): ${one.models?.join(", ") ?? "all of the provider's"}; at most ${budget(one)}`,
          ),
          ...(grants.git === null
            ? []
            : grants.git.repositories.map(
                ({ name, access, branches }) =>
                  `git by ${grants.git?.credential}: ${name} ${access}, branches ${branches.join(" ") || "none"}`,
              )),
          ...(grants.egress === null
            ? []
            : [`web: ${grants.egress.allow.map(({ host, port }) => `${host}:${port}`).join(" ")}`]),
          ...grants.direct.map(({ address, port }) => `direct: ${address}:${port}`),
          ...(grants.llm.length + grants.direct.length === 0 && grants.git === null && grants.egress === null
            ? ["nothing"]
            : []),
          `used: ${llm.requests} requests to models, ${llm.input_tokens} tokens in, ${llm.output_tokens} out, $${(llm.usd_nano / NANO).toFixed(6)}; ${git.fetches} fetches, ${git.pushes} pushes; ${egress.connections} connections, ${egress.bytes} bytes`,
        ],
        wrong: limit !== null && llm.usd_nano > limit ? ["it has spent more than it may"] : [],
      };
    },
  });
}

function budget(grant: RunOnRecord["grants"]["llm"][number]): string {
  const { max_usd_nano: usd, max_output_tokens: tokens, max_requests: requests } = grant;
  const parts = [
    ...(usd === null ? [] : [`$${usd / NANO}`]),
    ...(tokens === null ? [] : [`${tokens} tokens out`]),
    ...(requests === null ? [] : [`${requests} requests`]),
  ];
  return parts.length === 0 ? "without limit" : parts.join(", ");
}

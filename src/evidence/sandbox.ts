import { existsSync } from "node:fs";
import { execArguments, type Inside } from "./inside.ts";
import type { LiveRun } from "./run.ts";
import { see, type Section } from "./section.ts";
import { tokensIn, toldVariables } from "./told.ts";

type Seen = () => Promise<Inside>;

const NO_CAPABILITY = "0".repeat(16);

export async function environmentSection(run: LiveRun, inside: Seen): Promise<Section> {
  return see({
    name: "environment",
    title: "The command and its environment, as the sandbox has them",
    claim:
      "The command is uid 10000 without a capability, and its environment holds one credential, the run's own token for the gateway, and nothing of any host's.",
    by_hand: [`${execArguments(run).join(" ")} cat /proc/2/environ /proc/2/status    # shows the token`],
    look: async () => {
      const { command } = await inside();
      const variables = toldVariables(command.environ, run.onRecord.env);
      const tokens = tokensIn(command.environ).length;
      const { uid, capabilities, no_new_privs, seccomp } = command;
      return {
        facts: { pid: command.pid, uid, capabilities, no_new_privs, seccomp, variables, tokens },
        lines: [
          `process ${command.pid}: uid ${uid}, capabilities ${capabilities.join(" ")}, no_new_privs ${no_new_privs}, seccomp ${seccomp}`,
          ...variables.map(
            ({ name, value, of }) => `${name}=${value}${of === "request" ? "  (the request's)" : ""}`,
          ),
        ],
        wrong: [
          ...(uid === "10000" ? [] : [`it is uid ${uid}`]),
          ...(capabilities.every((set) => set === NO_CAPABILITY) ? [] : ["it has capabilities"]),
          ...(no_new_privs === "1" && seccomp === "2"
            ? []
            : ["it is without a filter, or may gain privileges"]),
          ...(tokens <= 1 ? [] : [`it has ${tokens} tokens`]),
          ...variables
            .filter(({ credential, of }) => credential && of !== "request")
            .map(({ name }) => `${name} looks like a credential, and is not the run's token`),
          ...variables
            .filter(({ of }) => of === "other")
            .map(({ name }) => `${name} is nobody's that is known`),
        ],
      };
    },
  });
}

/** Of the host, each there, and each of another kind. */
export function hostPaths({ host, names }: LiveRun): string[] {
  const { instance } = host;
  return [instance.masterKeyFile, instance.api.database, names.spec, instance.sockets.sandboxd, host.runsc];
}

export async function refusalSection(run: LiveRun, inside: Seen): Promise<Section> {
  return see({
    name: "host-paths",
    title: "The agent's side: paths of the host",
    claim: "A path of the host that the run asks for is not there; its own are.",
    by_hand: hostPaths(run)
      .slice(0, 1)
      .map((path) => `ls -l ${path}; ${execArguments(run).join(" ")} ls -l ${path} /work`),
    look: async () => {
      const { paths, through_root, own_paths, mounts, probe } = await inside();
      const there = hostPaths(run).filter((path) => existsSync(path));
      const asked = [
        ...Object.entries(paths),
        ...Object.entries(through_root).map(
          ([path, said]) => [`/proc/self/root/../..${path}`, said] as const,
        ),
      ];
      return {
        facts: { on_the_host: there, inside: paths, through_root, own: own_paths, mounts, as: probe },
        lines: [
          ...asked.map(([path, said]) => `${path}: ${said}`),
          ...Object.entries(own_paths).map(([path, said]) => `${path}: ${said === "done" ? "listed" : said}`),
          ...mounts.map((line) => `mount: ${line}`),
        ],
        wrong: [
          ...(there.length === 0 ? ["none of these is on the host, so this shows nothing"] : []),
          ...asked.filter(([, said]) => said === "done").map(([path]) => `${path} is there`),
          // The control.
          ...Object.entries(own_paths).flatMap(([path, said]) =>
            said === "done" ? [] : [`it can't list ${path}: ${said}`],
          ),
        ],
      };
    },
  });
}

export async function tokenSection(run: LiveRun, inside: Seen): Promise<Section> {
  const url = `http://${run.network.host}:${run.host.config.gateway_port}/v1/messages`;
  return see({
    name: "token",
    title: "The gateway and a wrong token",
    claim: "The gateway answers 401 to a wrong token and forwards nothing; the run's own is known to it.",
    by_hand: [
      `${execArguments(run).join(" ")} curl -si -H 'x-api-key: sk-ant-wrong' -d '{}' ${url} | head -1`,
    ],
    look: async () => {
      const { answers } = await inside();
      const entries = Object.entries(answers);
      return {
        facts: { answers },
        lines: entries.map(([what, answer]) => `${what}: ${answer ?? "the run was given no token"}`),
        wrong: entries.flatMap(([what, answer]) => {
          const good = what.startsWith("wrong token") ? 401 : 404;
          return answer === null || answer === good ? [] : [`${what}: ${answer} instead of ${good}`];
        }),
      };
    },
  });
}

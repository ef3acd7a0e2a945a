import { readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { argvOf, idOf, pids, statusOf, unlessGone } from "../kernel/process.ts";
import { roleUser, TENANT, type User } from "../kernel/users.ts";
import { openCgroups } from "../sandboxd/cgroup.ts";
import { HOST_ENV, runCommand } from "../sandboxd/runner.ts";
import type { Claim } from "./claim.ts";
import { searchFiles } from "./file-search.ts";
import { searchMemory } from "./memory.ts";
import type { Stage } from "./stage.ts";

const TIMEOUT_MS = 20_000;
const MAX_BYTES = 64 * 1024 * 1024;

/**
 * The gateway alone has a credential in the clear. It came to api in a request and was sealed there, so api's own memory may
 * hold what is left of that request, until it is used again or api starts anew: of that nothing is claimed here.
 */
export function secretClaims(stage: Stage): Claim[] {
  const { attacker, neighbour, secret, planted, since, place } = stage;
  const { instance } = place.appliance;
  const cgroups = openCgroups();

  return [
    {
      id: "secrets.sandbox-memory",
      claim: "No memory of a run's sandbox holds the credential that its gateway uses.",
      attack: "search all memory of all processes of both runs' sandboxes, from the host",
      control: "the same search finds a text that the attacker holds",
      try: async () => {
        const pids = [attacker, neighbour].flatMap(({ names }) => cgroups.processes(names.cgroup));
        const { found, bytes } = searchMemory(pids, [secret, planted]);
        const [secrets = 0, plants = 0] = found;
        const what = `in ${secrets} places of ${Math.round(bytes / 1024 / 1024)} MiB of ${pids.length} processes`;
        return {
          attack: { ok: secrets === 0, what },
          control: { ok: plants > 0, what: `in ${plants} places` },
        };
      },
    },
    {
      id: "secrets.processes",
      claim: "No process of the host has a credential in its arguments or environment.",
      attack: "read those of all processes, as root",
      control: "the same search finds a text in a process of the proof's own",
      try: async () => {
        const own = Bun.spawn(["sleep", "60"], { env: { ...HOST_ENV, PLANTED: planted } });
        try {
          const texts = ["cmdline", "environ"].flatMap((name) => inAllProcesses(name));
          const holds = (text: string) => texts.filter((bytes) => bytes.includes(text)).length;
          const [secrets, plants] = [holds(secret), holds(planted)];
          return {
            attack: { ok: secrets === 0, what: `in ${secrets} of ${texts.length}` },
            control: { ok: plants > 0, what: `in ${plants}` },
          };
        } finally {
          own.kill();
          await own.exited;
        }
      },
    },
    {
      id: "secrets.tenant-uid",
      claim: "Whoever is a run's user on the host reads nothing of another process there.",
      attack: "as uid 10000, read the environment and the memory of all processes",
      control: "it reads those of one of its own",
      try: async () => {
        const readable = (await asUser(TENANT, READABLE)).trim().split(/\s+/).filter(Boolean);
        const others = readable.filter((path) => !path.startsWith("own:"));
        return {
          attack: { ok: others.length === 0, what: others.join(", ") || "none can be read" },
          control: {
            ok: readable.length > others.length,
            what: readable.length > others.length ? "it does" : "it does not",
          },
        };
      },
    },
    {
      id: "secrets.gateway",
      claim:
        "The gateway, whose memory holds credentials, shows it to nobody of its own user, and leaves no core dump.",
      attack: "as the gateway's user, read its memory and environment",
      control: "the same user reads those of a process of its own",
      try: async () => {
        const user = roleUser("cofferdam-gw");
        const pid = gatewayOf(user, instance.data);
        const said = (await asUser(user, ofOne(pid))).trim().split(/\s+/).filter(Boolean);
        const core = /^Max core file size\s+(\S+)\s+(\S+)/m.exec(readFileSync(`/proc/${pid}/limits`, "utf8"));
        const owner = statSync(`/proc/${pid}/mem`).uid;
        const others = said.filter((path) => !path.startsWith("own:"));
        const dumps = owner === 0 ? [] : ["it can be dumped"];
        return {
          attack: {
            ok: others.length === 0 && dumps.length === 0,
            what:
              [...others, ...dumps].join(", ") ||
              `process ${pid} can't be read (core limit ${core?.[1] ?? "?"})`,
          },
          control: {
            ok: said.length > others.length,
            what: said.length > others.length ? "it does" : "it does not",
          },
        };
      },
    },
    {
      id: "secrets.files",
      claim: "No file of the appliance, no log, and no output of a run holds a credential.",
      attack:
        "search every file under the data directory and /run, and the roles' logs, that has changed since it was made",
      control: "the same search finds a text in a file that was put there",
      try: async () => {
        const plant = join(instance.data, `${place.tag}.planted`);
        writeFileSync(plant, planted, { mode: 0o600 });
        try {
          const paths = [instance.data, instance.sockets.dir, ...logsOf(instance.data)];
          const files = await searchFiles(paths, since, [secret, planted]);
          const journal = await journalSince(since);
          const held = [...(files.found[0] ?? []), ...(journal.includes(secret) ? ["the journal"] : [])];
          return {
            attack: { ok: held.length === 0, what: held.join(", ") || `none of ${files.count} files` },
            control: {
              ok: files.found[1]?.includes(plant) === true,
              what: `${files.found[1]?.length ?? 0} files`,
            },
          };
        } finally {
          rmSync(plant, { force: true });
        }
      },
    },
    {
      id: "secrets.answers",
      claim: "No answer of the API holds a credential.",
      attack: "ask for the credentials, the runs, their output and the events",
      control: "the answers tell of the credential by its name",
      try: async () => {
        const { appliance, workspace, tag } = place;
        const run = `/v1/runs/${attacker.run.id}`;
        const headers = {
          "x-workspace": workspace,
          "x-namespace": tag,
          accept: "text/plain, application/json",
        };
        const of = `/v1/workspaces/${workspace}`;
        const texts: string[] = [];
        for (const path of [
          `${of}/credentials`,
          `${of}/events?limit=200`,
          run,
          `${run}/logs`,
          "/v1/runs?limit=50",
        ])
          texts.push(await (await appliance.call(path, { headers })).text());
        const all = texts.join("\n");
        const named = all.split(tag).length - 1;
        return {
          attack: { ok: !all.includes(secret), what: `${all.length} bytes without it` },
          control: { ok: named > 0, what: `${named} times` },
        };
      },
    },
  ];
}

function inAllProcesses(name: string): Buffer[] {
  return pids().flatMap((pid) => {
    try {
      return [readFileSync(`/proc/${pid}/${name}`)];
    } catch {
      // It ended, or is the kernel's.
      return [];
    }
  });
}

/** What can be read, with a process of its own beside: "own:" before what is that one's. */
const READABLE = `
sleep 60 & own=$!
for directory in /proc/[0-9]*; do
  pid=\${directory#/proc/}; whose=
  [ "$pid" != "$own" ] || whose=own:
  [ "$pid" != $$ ] || continue
  for name in environ mem; do
    ( exec 3<"$directory/$name" ) 2>/dev/null && [ "$name" = mem -o -n "$whose" -o -n "$(head -c1 "$directory/$name" 2>/dev/null | tr -d '\\0')" ] && echo "$whose$directory/$name"
  done
done
kill $own`;

const ofOne = (pid: number) => `
sleep 60 & own=$!
for each in ${pid}: $own:own:; do
  for name in environ mem; do
    ( exec 3<"/proc/\${each%%:*}/$name" ) 2>/dev/null && echo "\${each#*:}/proc/\${each%%:*}/$name"
  done
done
kill $own`;

async function asUser({ uid, gid }: User, script: string): Promise<string> {
  const argv = [
    "setpriv",
    `--reuid=${uid}`,
    `--regid=${gid}`,
    "--clear-groups",
    "--inh-caps=-all",
    "sh",
    "-c",
    `${script}\nexit 0`,
  ];
  return runCommand(argv, { timeoutMs: TIMEOUT_MS, maxOutputBytes: MAX_BYTES });
}

function gatewayOf({ uid }: User, data: string): number {
  const found = pids().find((pid) =>
    unlessGone(() => {
      const argv = argvOf(pid);
      return (
        argv.includes("gateway") && argv.includes(data) && idOf({ status: statusOf(pid) }, "Uid") === `${uid}`
      );
    }),
  );
  if (found === undefined) throw new Error("the gateway's process was not found");
  return found;
}

/** Where `serve` writes, when that is a file. */
function logsOf(data: string): string[] {
  const found = pids().map((pid) =>
    unlessGone(() => {
      const argv = argvOf(pid);
      const path = argv.includes("serve") && argv.includes(data) ? readlinkSync(`/proc/${pid}/fd/2`) : "";
      return path.startsWith("/") && statSync(path).isFile() ? path : undefined;
    }),
  );
  return [...new Set(found.filter((path) => path !== undefined))];
}

/** What units wrote to systemd's journal; nothing where there is none. */
async function journalSince(since: number): Promise<string> {
  const argv = [
    "journalctl",
    "--no-pager",
    "--quiet",
    "--output=cat",
    `--since=@${Math.floor(since / 1000)}`,
    "--unit=cofferdam*",
  ];
  return runCommand(argv, { timeoutMs: TIMEOUT_MS, maxOutputBytes: MAX_BYTES }).catch(() => "");
}

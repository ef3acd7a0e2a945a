import { afterAll, beforeAll, expect, test } from "bun:test";
import { binary, startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { startProvider } from "../fixtures/provider.ts";
import { EMPTY, runCalls } from "../fixtures/run-calls.ts";
import { until } from "../fixtures/until.ts";

const KEY = "sk-real-0123456789-of-the-provider";
const USERS_SECRET = "hunter2-of-the-caller";
const provider = startProvider({ key: KEY });

let appliance: Appliance;
let run: string;
const { startRun, runOf, outputOf, makeCredential } = runCalls(() => appliance, EMPTY);
let taken: Evidence;
beforeAll(async () => {
  appliance = await startAppliance({
    config: '[exec]\npool = 0\n\n[providers]\nallow_private = ["127.0.0.0/8"]\n',
  });
  await makeCredential({ name: "models", kind: "anthropic", secret: KEY, base_url: provider.url });
  const ask = `curl -sS -H "x-api-key: $ANTHROPIC_API_KEY" "$ANTHROPIC_BASE_URL/v1/messages" -d '${JSON.stringify({ model: "claude-sonnet-5-5", max_tokens: 100, messages: [{ role: "user", content: "hi" }] })}'`;
  run = await startRun({
    command: `${ask}; echo asked; exec sleep 600`,
    env: { THEIRS: USERS_SECRET },
    llm: { credential: "models", models: ["claude-sonnet-5-5"], max_usd: 2 },
    limits: { memory_mb: 512, cpus: 1 },
  });
  await until(async () => (await outputOf(run)).includes("asked"), 30_000);
  await until(async () => (await runOf(run)).usage.llm.requests === 1);
  taken = await evidence(run);
}, 60_000);
afterAll(async () => {
  await appliance.stop();
  await provider.stop();
});

interface Section {
  readonly claim: string;
  readonly holds: boolean | null;
  readonly wrong: readonly string[];
  readonly by_hand: readonly string[];
  // oxlint-disable-next-line typescript/no-explicit-any
  readonly facts: any;
}
interface Evidence {
  readonly run_id: string;
  readonly live: boolean;
  readonly holds: boolean | null;
  readonly sections: Readonly<Record<string, Section>>;
}

async function evidence(id: string): Promise<Evidence> {
  const { stdout } = await appliance.cofferdam(["evidence", id, "--json"]);
  return JSON.parse(stdout) as Evidence;
}

async function only(section: string, expect = 0): Promise<Section | undefined> {
  const { stdout } = await appliance.cofferdam(["evidence", run, "--only", section, "--json"], { expect });
  const { sections } = JSON.parse(stdout) as Evidence;
  return Object.keys(sections).join() === section ? sections[section] : undefined;
}

function sh(command: string): string {
  const { stdout, stderr, exitCode } = Bun.spawnSync(["bash", "-c", command]);
  if (exitCode !== 0) throw new Error(`${command}: ${stderr.toString()}`);
  return stdout.toString();
}

/** What does not hold, and why. */
function wrongIn({ sections }: Evidence): Record<string, readonly string[]> {
  const bad = Object.entries(sections).filter(([, { holds }]) => holds !== true);
  return Object.fromEntries(bad.map(([name, { wrong }]) => [name, wrong]));
}

test("every claim holds of a run that lives, and no secret is shown", async () => {
  const { stdout: text } = await appliance.cofferdam(["evidence", run, "--only", "environment,spec"]);
  expect(wrongIn(taken)).toEqual({});
  expect(taken).toMatchObject({ run_id: run, live: true, holds: true });
  expect(Object.keys(taken.sections)).toEqual(
    "processes files image spec limits network filter gateway grants environment host-paths neighbour token".split(
      " ",
    ),
  );
  for (const shown of [JSON.stringify(taken), text]) {
    expect(shown).toContain("sk-ant-");
    expect(shown).not.toMatch(/sk-ant-[0-9a-f]{20}/);
    for (const secret of [KEY, USERS_SECRET]) expect(shown).not.toContain(secret);
  }
  expect(text).toContain("2 of 2 claims hold.");

  const { processes, spec, limits, environment, neighbour, token, grants, network } = taken.sections;
  const roles = processes?.facts.processes as { role: string; uid: string; seccomp: string }[];
  expect(roles.map(({ role }) => role)).toEqual(
    expect.arrayContaining(["shim", "runsc", "gofer", "sandbox", "task"]),
  );
  expect(roles.filter(({ uid, seccomp }) => uid === "65534" && seccomp === "filter").length).toBe(
    roles.length - 2,
  );
  expect(spec?.facts.seccomp).toMatchObject({ default_action: "SCMP_ACT_ERRNO", allowed: 346 });
  expect(limits?.facts.limits).toContainEqual(expect.objectContaining({ value: String(512 * 2 ** 20) }));
  expect(environment?.facts).toMatchObject({ uid: "10000", tokens: 1, no_new_privs: "1", seccomp: "2" });
  expect(environment?.facts.variables).toContainEqual(
    expect.objectContaining({ name: "THEIRS", of: "request" }),
  );
  expect(neighbour?.facts).toMatchObject({
    own: { result: "REACHABLE" },
    theirs: { result: "BLOCKED" },
    neighbour: { started_for_this: true },
  });
  expect(token?.facts.answers).toEqual({
    "wrong token, a request to a model": 401,
    "wrong token, nothing that there is": 401,
    "its own token, nothing that there is": 404,
  });
  expect(grants?.facts.used.llm).toMatchObject({ requests: 1 });
  expect(network?.facts.veth.addr_info).toHaveLength(1);
  // Only the run's own request has come to the provider.
  expect(provider.requests).toHaveLength(1);
}, 60_000);

test("a neighbour that is there is tried, and nothing is left of one that was made", async () => {
  const other = await startRun({ command: "echo up; exec sleep 600" });
  await until(async () => (await outputOf(other)).includes("up"));
  expect((await only("neighbour"))?.facts.neighbour).toMatchObject({ run: other, started_for_this: false });
  await appliance.call(`/v1/runs/${other}/cancel`, { method: "POST" });
  const { stdout } = await appliance.cofferdam(["workspace", "list", "--json"]);
  const { workspaces } = JSON.parse(stdout) as { workspaces: { workspace_id: string; name: string }[] };
  const own = workspaces.find(({ name }) => name === "cofferdam evidence")?.workspace_id ?? "";
  const left = await appliance.cofferdam(["namespace", "list", "--workspace", own, "--json"]);
  expect(JSON.parse(left.stdout)).toMatchObject({ namespaces: [] });
}, 120_000);

test("what an auditor is told to do by hand shows the same", () => {
  const { sections } = taken;
  const { spec, image, neighbour } = sections;
  const [whole, profile] = spec?.by_hand ?? [];
  expect(sh(whole ?? "")).toStartWith(spec?.facts.spec_sha256);
  expect(sh(profile ?? "")).toStartWith(spec?.facts.seccomp_sha256);
  expect(sh(image?.by_hand[1] ?? "")).toContain(image?.facts.runsc.version);
  expect(sh(neighbour?.by_hand[2] ?? "")).toContain("DROP");
  for (const { by_hand } of [
    sections.processes,
    sections.files,
    sections.network,
    sections.filter,
    sections.limits,
  ] as Section[])
    for (const command of by_hand) expect([command, sh(command).length > 0]).toEqual([command, true]);
}, 120_000);

/** Each breaks one wall on this host, and puts it back. */
const broken: readonly (readonly [
  section: string,
  what: string,
  (at: Places) => { break: string; mend: string },
])[] = [
  [
    "filter",
    "the rule that drops a neighbour's packets",
    ({ chain }) => ({
      break: `iptables -t raw -D ${chain} -d 10.42.0.0/16 -m comment --comment neighbour -j DROP`,
      mend: `iptables -t raw -I ${chain} 7 -d 10.42.0.0/16 -m comment --comment neighbour -j DROP`,
    }),
  ],
  [
    "filter",
    "a way past its chain",
    ({ chain }) => ({
      break: `iptables -t raw -I ${chain} 1 -d 198.51.100.7 -j RETURN`,
      mend: `iptables -t raw -D ${chain} -d 198.51.100.7 -j RETURN`,
    }),
  ],
  [
    "filter",
    "a way round all chains",
    ({ inst }) => ({
      break: `iptables -t raw -I PREROUTING 1 -i cd${inst}+ -j ACCEPT`,
      mend: `iptables -t raw -D PREROUTING -i cd${inst}+ -j ACCEPT`,
    }),
  ],
  [
    "filter",
    "a way in from elsewhere",
    ({ inst }) => ({
      break: `iptables -t raw -I CD${inst}-PRE 1 -s 192.0.2.0/24 -j RETURN`,
      mend: `iptables -t raw -D CD${inst}-PRE -s 192.0.2.0/24 -j RETURN`,
    }),
  ],
  [
    "filter",
    "the wall behind it",
    ({ inst }) => ({
      break: `iptables -D FORWARD -j CD${inst}-FWD`,
      mend: `iptables -I FORWARD 1 -j CD${inst}-FWD`,
    }),
  ],
  [
    "network",
    "rp_filter",
    ({ veth }) => ({
      break: `echo 0 >/proc/sys/net/ipv4/conf/${veth}/rp_filter`,
      mend: `echo 1 >/proc/sys/net/ipv4/conf/${veth}/rp_filter`,
    }),
  ],
  [
    "network",
    "another address",
    ({ veth }) => ({
      break: `ip addr add 192.0.2.9/32 dev ${veth}`,
      mend: `ip addr del 192.0.2.9/32 dev ${veth}`,
    }),
  ],
  [
    "network",
    "a bridge",
    ({ veth }) => ({
      break: `ip link add br9 type bridge && ip link set ${veth} master br9`,
      mend: `ip link set ${veth} nomaster && ip link del br9`,
    }),
  ],
  [
    "limits",
    "its memory limit",
    ({ limit }) => ({
      break: `cp ${limit} /tmp/limit; for f in ${limit.replace(".limit", ".memsw.limit")} ${limit}; do [ ! -e $f ] || echo 4G >$f; done`,
      mend: `for f in ${limit} ${limit.replace(".limit", ".memsw.limit")}; do [ ! -e $f ] || cat /tmp/limit >$f; done`,
    }),
  ],
  [
    "spec",
    "its specification",
    ({ spec }) => ({
      break: `cp ${spec} /tmp/spec; sed -i 's/"names":\\["accept"/"names":["mount","accept"/' ${spec}`,
      mend: `cat /tmp/spec >${spec}`,
    }),
  ],
];

interface Places {
  readonly inst: string;
  readonly chain: string;
  readonly veth: string;
  readonly limit: string;
  readonly spec: string;
}

test("each wall that is broken on the host is told of, until it is mended", async () => {
  const { sections } = taken;
  const limits = sections.limits?.facts.limits as { file: string; wanted: string }[];
  const tail = run.slice("run-".length);
  const { inst } = appliance;
  const at: Places = {
    inst,
    chain: `CD${inst}-${tail}`,
    veth: sections.network?.facts.veth.ifname,
    limit:
      limits.find(({ file, wanted }) => wanted === String(512 * 2 ** 20) && !file.includes("memsw"))?.file ??
      "",
    spec: `/run/cofferdam/${inst}/host/runs/${run}/config.json`,
  };
  // sandboxd puts back what it finds missing.
  process.kill(appliance.pid("serve"), "SIGSTOP");
  try {
    for (const [section, what, by] of broken) {
      const { break: breaking, mend } = by(at);
      sh(breaking);
      expect([what, (await only(section, 1))?.holds]).toEqual([what, false]);
      sh(mend);
      expect([what, (await only(section))?.wrong]).toEqual([what, []]);
    }
  } finally {
    process.kill(appliance.pid("serve"), "SIGCONT");
  }
}, 120_000);

test("what it can't do it says, with what to do", async () => {
  const refused = async (args: string[], code: number) =>
    (await appliance.cofferdam(args, { expect: code })).stderr;
  expect(await refused(["evidence", "run-aaaaaaaaaa"], 1)).toContain(
    'There is no run "run-aaaaaaaaaa" here.',
  );
  expect(await refused(["evidence", run, "--only", "gatway"], 2)).toContain(
    "There is no section gatway; there are",
  );
  const nobody = Bun.spawnSync([
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    binary(),
    "evidence",
    run,
  ]);
  expect([nobody.exitCode, nobody.stderr.toString()]).toEqual([1, expect.stringContaining("use sudo")]);
  // Its tenant is told.
  const { workspace_id, admin_key } = appliance.keys;
  const events = await appliance.call(`/v1/workspaces/${workspace_id}/events?type=run.examined`, {
    key: admin_key,
  });
  expect(await events.text()).toContain(run);
}, 120_000);

test("of a run that is over there is its receipt, and nothing on the host", async () => {
  await appliance.call(`/v1/runs/${run}/cancel`, { method: "POST" });
  const last = await until(async () => {
    const { stdout } = await appliance.cofferdam(["evidence", run, "--json"]).catch(() => ({ stdout: "{}" }));
    const found = JSON.parse(stdout) as Partial<Evidence>;
    return found.live === false && found.holds === true ? (found as Evidence) : null;
  }, 120_000);
  expect(Object.keys(last.sections)).toEqual(["remains", "receipt", "grants"]);
  expect(last.sections.receipt?.facts.payload).toMatchObject({ run_id: run, status: "cancelled" });
  // The control: what would be left is seen.
  const left = `/run/cofferdam/${appliance.inst}/host/runs/${run}`;
  sh(`mkdir ${left}`);
  expect((await only("remains", 1))?.wrong).toEqual(["there is still something of: directories"]);
  sh(`rmdir ${left}`);
}, 120_000);

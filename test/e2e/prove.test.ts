import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync, readdirSync } from "node:fs";
import { binary, startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { hostState } from "../fixtures/host-state.ts";
import { EMPTY, runCalls } from "../fixtures/run-calls.ts";
import { until } from "../fixtures/until.ts";

let appliance: Appliance;
const { startRun, runOf, over } = runCalls(() => appliance, EMPTY);
beforeAll(async () => {
  appliance = await startAppliance({ config: "[exec]\npool = 0\n[runs]\nlive = 1\n" });
});
afterAll(async () => {
  await appliance.stop();
  expect(hostState(appliance.inst)).toEqual([]);
});

function prove() {
  return Bun.spawn([binary(), "prove", "--quick", "--json", "--data", appliance.data], {
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    stdout: "pipe",
    stderr: "pipe",
  });
}

/** What a proof makes on the host besides its runs: namespaces, interfaces, and rules of routing and of the filter. */
function ofTheProof(): string[] {
  const said = ["ip netns", "ip -o link", "ip rule", "iptables-save"].map((command) =>
    Bun.spawnSync(command.split(" ")).stdout.toString(),
  );
  return said
    .join("\n")
    .split("\n")
    .filter((line) => line.includes(`cp${appliance.inst}`) || line.includes("lookup 166"));
}

const veths = () =>
  readFileSync("/proc/self/net/dev", "utf8").match(new RegExp(`cd${appliance.inst}[a-z2-7]+`, "g")) ?? [];
const metric = async (name: string) => {
  const text = await (
    await fetch("http://x/metrics", { unix: `/run/cofferdam/${appliance.inst}/api/admin.sock` })
  ).text();
  return new RegExp(`^cofferdam_${name} (\\d+)$`, "m").exec(text)?.[1];
};

test("a proof that is killed leaves nothing on the host, and the next one passes beside all runs that may live", async () => {
  const other = await startRun({ command: "cat", stdin_open: true });
  await until(async () => (await runOf(other)).status === "running");
  const killed = prove();
  await until(() => ofTheProof().some((line) => line.includes("iif cd")));
  killed.kill("SIGKILL");
  await until(() => ofTheProof().length === 0);
  const child = prove();
  const report = JSON.parse(await child.stdout.text()) as {
    claims: { id: string; passed: boolean }[];
    error: string | null;
  };
  expect([report.error, report.claims.filter(({ passed }) => !passed)]).toEqual([null, []]);
  expect(report.claims.length).toBeGreaterThan(45);
  expect(await child.exited).toBe(0);
  expect(ofTheProof()).toEqual([]);
  expect(readdirSync(appliance.data).filter((name) => name.startsWith("probe-"))).toEqual([]);
  expect([await metric("proof_passed"), await metric("proof_closes_admission")]).toEqual(["1", "0"]);
  expect((await runOf(other)).status).toBe("running");
  await appliance.call(`/v1/runs/${other}/stdin?eof=true`, { method: "POST" });
  expect(await over(other)).toMatchObject({ status: "succeeded" });
}, 120_000);

test("one that finds a wall down says which, and no run begins until the operator says why", async () => {
  const child = prove();
  while (child.exitCode === null) {
    for (const veth of veths())
      Bun.spawnSync(["sh", "-c", `echo 0 >/proc/sys/net/ipv4/conf/${veth}/rp_filter`]);
    await Promise.race([Bun.sleep(20), child.exited]);
  }
  const report = JSON.parse(await child.stdout.text()) as {
    claims: { id: string; passed: boolean; attack: string }[];
  };
  expect(report.claims.filter(({ passed }) => !passed)).toMatchObject([
    { id: "host.settings", attack: expect.stringContaining("rp_filter is 0") },
  ]);
  expect(child.exitCode).toBe(1);
  const refused = await appliance.call("/v1/runs", { json: { command: "true", ...EMPTY } });
  expect([refused.status, await refused.text()]).toEqual([503, expect.stringContaining("host.settings")]);
  // Nor the operator's.
  const start = ["run", "start", "bob", "--from", "empty", "--", "true"];
  expect((await appliance.cofferdam(start, { expect: 3 })).stderr).toContain("host.settings");
  expect([await metric("proof_passed"), await metric("proof_closes_admission")]).toEqual(["0", "1"]);
  const doctor = await appliance.cofferdam(["doctor"], { expect: 1 });
  expect(doctor.stdout).toMatch(/fail {2}proof .*host\.settings did not hold/);
  await appliance.cofferdam(["prove", "--override", "another kernel's setting"]);
  expect(await over(await startRun({ command: "true" }))).toMatchObject({ status: "succeeded" });
  expect(await metric("proof_closes_admission")).toBe("0");
  const { stdout: events } = await appliance.cofferdam(["event", "list", "--json", "--appliance"]);
  expect(events).toContain("proof.overridden");
}, 120_000);

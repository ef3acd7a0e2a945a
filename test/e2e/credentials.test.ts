import { afterAll, beforeAll, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { searchFiles } from "../../src/prove/file-search.ts";
import { searchMemory } from "../../src/prove/memory.ts";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { startProvider } from "../fixtures/provider.ts";
import { EMPTY, runCalls } from "../fixtures/run-calls.ts";
import { spellings } from "../fixtures/spellings.ts";
import { until } from "../fixtures/until.ts";

/*
 * A provider's key, looked for wherever it must not be, while a run streams from that provider. Each search is made for
 * another text too, which was put there, and must find that.
 */
const KEY = `sk-real-${randomBytes(24).toString("hex")}`;
/** One that the provider does not take: it says so, with the key in its answer. */
const REFUSED = `sk-gone-${randomBytes(24).toString("hex")}`;
const PLANTED = `planted-${randomBytes(24).toString("hex")}`;
const texts = [...spellings(KEY), ...spellings(REFUSED)];
const MODEL = "claude-sonnet-5-5";
const provider = startProvider({ key: KEY });

let appliance: Appliance;
let run: string;
const { startRun, outputOf, makeCredential } = runCalls(() => appliance, EMPTY);
beforeAll(async () => {
  appliance = await startAppliance({
    config: '[exec]\npool = 0\n\n[providers]\nallow_private = ["127.0.0.0/8"]\n',
  });
  const credential = { kind: "anthropic", base_url: provider.url };
  await makeCredential({ ...credential, name: "good", secret: KEY });
  await makeCredential({ ...credential, name: "refused", secret: REFUSED });
  // Sealing was api's work, so what is left of that request may be in its memory. It needs the key never again.
  const before = appliance.pid("api");
  process.kill(before, "SIGKILL");
  await until(async () => {
    const answer = await appliance.call("/v1/me").catch(() => null);
    return answer?.ok === true && appliance.pid("api") !== before;
  });

  provider.behaviour.script = () => ({ text: "one two", fault: { kind: "stall", afterEvents: 4 } });
  const body = (more: object) =>
    `'${JSON.stringify({ model: MODEL, max_tokens: 100, messages: [{ role: "user", content: "hi" }], ...more })}'`;
  const ask = `curl -sS -N -i -H "x-api-key: $ANTHROPIC_API_KEY" "$ANTHROPIC_BASE_URL/v1/messages"`;
  const llm = (credential: string) => ({
    llm: { credential, models: [MODEL], max_usd: 1 },
    env: { PLANTED },
  });
  const refused = await startRun({ ...llm("refused"), command: `${ask} -d ${body({})}; echo over` });
  await until(async () => (await outputOf(refused)).includes("over"));
  expect(await outputOf(refused)).toContain("refuses the appliance's credential");
  run = await startRun({ ...llm("good"), command: `env; ${ask} -d ${body({ stream: true })}; sleep 600` });
  // As far as the stand-in's fourth event: the rest is under way for as long as the test lasts.
  await until(async () => (await outputOf(run)).includes("message_start"));
}, 60_000);
afterAll(async () => {
  await appliance.stop();
  await provider.stop();
});

function others(): number[] {
  const all = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  // This one is the provider, and has made the key.
  return all.map(Number).filter((pid) => pid !== process.pid);
}

function argvOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return "";
  }
}

/** Which processes' memory holds any of these. */
function holders(pids: readonly number[], wanted: readonly string[]): number[] {
  return pids.filter((pid) => {
    try {
      return searchMemory([pid], wanted).found.some((count) => count > 0);
    } catch {
      // It has ended.
      return false;
    }
  });
}

test("the provider has seen the key, and the run its own token alone", async () => {
  expect(provider.requests.map(({ headers }) => headers["x-api-key"])).toEqual([REFUSED, KEY]);
  const output = await outputOf(run);
  expect(output).toMatch(/ANTHROPIC_API_KEY=sk-ant-[0-9a-f]{64}/);
  expect(texts.filter((text) => output.includes(text))).toEqual([]);
  expect(output).toContain(PLANTED);
});

test("of all processes of the host only the gateway's memory holds it", () => {
  const gateway = appliance.pid("gateway");
  expect(holders(others(), texts)).toEqual([gateway]);
  // The control: what the run has in its environment is in its sandbox, and the gateway does not have it.
  const sandbox = holders(others(), [PLANTED]);
  expect(
    sandbox.map(argvOf).filter((argv) => argv.startsWith("runsc-sandbox") && argv.includes(run)),
  ).toHaveLength(1);
  expect(sandbox).not.toContain(gateway);
});

test("uid 10000 of the host finds it in nothing that it can read of any process", async () => {
  const reader = join(import.meta.dir, "../fixtures/proc-reader.ts");
  const as = ["setpriv", "--reuid=10000", "--regid=10000", "--clear-groups", "--inh-caps=-all"];
  const own = Bun.spawn([...as, "sleep", "60"], { env: { PATH: "/usr/bin:/bin", PLANTED } });
  await until(() => /^Uid:\t10000\t/m.test(readFileSync(`/proc/${own.pid}/status`, "utf8")));
  async function found(user: readonly string[], pids: readonly number[]) {
    const child = Bun.spawn([...user, process.execPath, reader], {
      stdin: new Blob([JSON.stringify({ pids, texts: [PLANTED, ...texts] })]),
      stdout: "pipe",
    });
    const said = (await child.stdout.json()) as { uid: number; found: string[][] };
    const [planted, ...secrets] = said.found;
    return { uid: said.uid, planted, places: [...new Set(secrets.flat())] };
  }
  try {
    const nobody = await found(as, others());
    expect(nobody).toMatchObject({ uid: 10000, places: [] });
    expect(nobody.planted).toEqual(
      expect.arrayContaining([`/proc/${own.pid}/environ`, `/proc/${own.pid}/mem`]),
    );
    // The control: the same search by root sees into the gateway.
    const gateway = appliance.pid("gateway");
    const root = await found([], [gateway]);
    expect(root.places).toEqual([`/proc/${gateway}/mem`]);
  } finally {
    own.kill();
    await own.exited;
  }
}, 60_000);

test("no file holds it: not of the data directory, of /run, or of what was logged", async () => {
  const places = [dirname(appliance.data), `/run/cofferdam/${appliance.inst}`];
  const planted = join(appliance.data, "api/state/runs", run, "planted");
  await Bun.write(planted, `x${PLANTED}`);
  const { found, count } = await searchFiles(places, 0, [PLANTED, ...texts]);
  const [plants, ...secrets] = found;
  expect(plants).toContain(planted);
  expect([...new Set(secrets.flat())]).toEqual([]);
  expect(count).toBeGreaterThan(20);
  rmSync(planted);
});

test("no answer of the API holds it, and no error about the credential itself", async () => {
  const { workspace_id, admin_key } = appliance.keys;
  const path = `/v1/workspaces/${workspace_id}/credentials`;
  const json = { name: "good", kind: "anthropic", secret: KEY, base_url: provider.url };
  const answers = await Promise.all([
    appliance.call(path, { key: admin_key }),
    appliance.call(path, { key: admin_key, json }),
    appliance.call(path, { key: admin_key, json: { ...json, name: "x", base_url: KEY } }),
    appliance.call(path, { key: admin_key, json: { ...json, name: "x", kind: KEY } }),
    appliance.call(path, { key: admin_key, json: { ...json, name: "x", secret: [KEY] } }),
    appliance.call(`/v1/workspaces/${workspace_id}/events?limit=200`, { key: admin_key }),
    appliance.call(`/v1/runs/${run}`),
    appliance.call("/v1/runs"),
  ]);
  const told = await Promise.all(
    answers.map(async (answer) => [answer.status, await answer.text()] as const),
  );
  expect(told.map(([status]) => status)).toEqual([200, 409, 422, 422, 422, 200, 200, 200]);
  expect(told.filter(([, text]) => texts.some((one) => text.includes(one)))).toEqual([]);
  expect(told[0]?.[1]).toContain('"good"');
});

test("a gateway that is made to dump core leaves none, whatever its limit is", async () => {
  const gateway = appliance.pid("gateway");
  const { uid } = statSync(join(appliance.data, "gateway"));
  // The kernel gives root the files in /proc of a process that it would not dump.
  expect(statSync(`/proc/${gateway}/environ`).uid).toBe(0);
  Bun.spawnSync(["prlimit", "--pid", String(gateway), "--core=unlimited:unlimited"]);
  const places = ["/", "/tmp", dirname(appliance.data), join(appliance.data, "gateway")];
  const cores = () =>
    places.flatMap((directory) => readdirSync(directory).filter((name) => name.startsWith("core")));
  process.kill(gateway, "SIGABRT");
  await until(() => {
    try {
      return appliance.pid("gateway") !== gateway;
    } catch {
      return false;
    }
  });
  expect(cores()).toEqual([]);
  // The control: another program of its user leaves one.
  const work = mkdtempSync("/tmp/dump-");
  Bun.spawnSync(["chown", String(uid), work]);
  const as = ["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups"];
  Bun.spawnSync([...as, "bash", "-c", `ulimit -c unlimited; cd ${work} && kill -ABRT $$`]);
  expect(readdirSync(work).filter((name) => name.startsWith("core"))).toHaveLength(1);
});

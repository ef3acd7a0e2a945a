import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, constants, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { parseExposition, valueOf } from "../fixtures/exposition.ts";
import { until } from "../fixtures/until.ts";

const CONFIG = '[exec]\npool = 1\n[rate]\nper_key = "0"\nper_address = "0"\n';
const METRICS_PORT = 9464;
/** What does not answer is waited for. */
setDefaultTimeout(60_000);
const running: Appliance[] = [];
const open = new Set<number>();
afterEach(async () => {
  for (const appliance of running.splice(0)) await appliance.stop();
  for (const fd of open) closeSync(fd);
  open.clear();
});

async function start(options: Parameters<typeof startAppliance>[0] = {}): Promise<Appliance> {
  const appliance = await startAppliance({ config: CONFIG, ...options });
  running.push(appliance);
  return appliance;
}

/** As an operator asks; the whole answer. */
function curl(...args: string[]): { status: number; body: string } {
  const { stdout } = Bun.spawnSync(["curl", "-s", "-w", "\n%{http_code}", ...args]);
  const text = stdout.toString();
  const end = text.lastIndexOf("\n");
  return { status: Number(text.slice(end + 1)), body: text.slice(0, end + 1) };
}

const socketOf = ({ inst }: Appliance) => `/run/cofferdam/${inst}/api/admin.sock`;

const readyz = (appliance: Appliance) => fetch(`${appliance.keys.base_url}/readyz`);
const untilReady = (appliance: Appliance) => until(async () => (await readyz(appliance)).ok, 20_000);

describe("metrics", () => {
  test("of a busy appliance are well-formed, tell what happened, and name no tenant", async () => {
    const appliance = await start({
      config: `${CONFIG}[http]\nmetrics_listen = "127.0.0.1:${METRICS_PORT}"\n`,
    });
    const metrics = () => curl("--unix-socket", socketOf(appliance), "http://x/metrics");
    await untilReady(appliance);
    await until(() => valueOf(parseExposition(metrics().body), "cofferdam_sandbox_pool_ready") === 1);
    const names = ["okapi-1", "okapi-2"];
    for (const namespace of names) {
      for (const command of ["true", "exit 3"]) {
        expect((await appliance.call("/v1/exec", { namespace, json: { command } })).status).toBe(200);
      }
      await appliance.call("/write", { namespace, json: { path: "okapi.txt", content: "okapi" } });
    }
    await appliance.call("/v1/me", { key: "trove-sk-okapi" });

    // What sandboxd says is kept for a second.
    await Bun.sleep(1100);
    const { status, body } = metrics();
    expect(status).toBe(200);
    expect(body).not.toMatch(/okapi|ws-|ns-|key-|trove/);
    const families = parseExposition(body);
    const value = (name: string, labels = {}) => valueOf(families, `cofferdam_${name}`, labels);
    const execs = { route: "/v1/exec", method: "POST", status: "2xx" };
    expect(value("http_requests_total", execs)).toBe(4);
    expect(value("http_request_duration_seconds_count", execs)).toBe(4);
    expect(value("http_refusals_total", { status: "401" })).toBe(1);
    expect(value("execs_total", { outcome: "zero" })).toBe(2);
    expect(value("execs_total", { outcome: "nonzero" })).toBe(2);
    expect(value("exec_duration_seconds_count")).toBe(4);
    expect(value("sandboxes_warm")).toBe(2);
    expect(value("sandboxes")).toBeGreaterThanOrEqual(2);
    const started = ["pool", "boot"].map((source) => value("sandbox_start_seconds_count", { source }) || 0);
    expect(started[0]).toBeGreaterThanOrEqual(1);
    expect((started[0] ?? 0) + (started[1] ?? 0)).toBe(2);
    // Four commands, two files, and what the first start made.
    expect(value("audit_events_total")).toBeGreaterThanOrEqual(6);
    expect(value("audit_chains")).toBe(2);
    expect(value("ready")).toBe(1);
    expect(value("disk_free_bytes")).toBeGreaterThan(0);
    expect(value("event_loop_lag_seconds_count")).toBeGreaterThan(0);

    const port = curl(`http://127.0.0.1:${METRICS_PORT}/metrics`);
    expect([...parseExposition(port.body).keys()]).toEqual([...families.keys()]);
    expect(curl(`${appliance.keys.base_url}/metrics`).status).toBe(404);
    const { stdout } = await appliance.cofferdam(["status"]);
    expect(stdout).toMatch(/^ready +yes\n(.*\n)*events +\d+ in 2 chains\n/m);
  });

  test("may not be had from another host", async () => {
    const refused = startAppliance({ config: '[http]\nmetrics_listen = "0.0.0.0:9464"\n' });
    const error = await refused.catch((error: unknown) => error);
    expect(String(error)).toContain('[http] metrics_listen = "0.0.0.0:9464" would tell the network');
  });
});

describe("/readyz", () => {
  test.each([
    ["serve", "sandboxd"],
    ["gateway", "gateway"],
  ] as const)("with %s stopped names %s, and is ready again when it goes on", async (role, name) => {
    const appliance = await start();
    await untilReady(appliance);
    const pid = appliance.pid(role);
    process.kill(pid, "SIGSTOP");
    try {
      await until(async () => !(await readyz(appliance)).ok);
      const answer = await readyz(appliance);
      expect(answer.status).toBe(503);
      expect(await answer.json()).toMatchObject({ ready: false, reasons: [name] });
      const { status, body } = curl("--unix-socket", socketOf(appliance), "http://x/readyz");
      expect(status).toBe(503);
      expect((JSON.parse(body) as { reasons: string[] }).reasons).toEqual([
        expect.stringMatching(new RegExp(`^${name}: .*not answer`)),
      ]);
      const metrics = curl("--unix-socket", socketOf(appliance), "http://x/metrics");
      expect(valueOf(parseExposition(metrics.body), "cofferdam_ready")).toBe(0);
    } finally {
      process.kill(pid, "SIGCONT");
    }
    await untilReady(appliance);
    const log = () => readFileSync(`${appliance.data}.log`, "utf8");
    await until(() => log().includes(`"message":"is ready again"`));
  });
});

describe("the log", () => {
  test("has a line for a request, with its route, and none for what watches", async () => {
    const appliance = await start();
    await untilReady(appliance);
    await appliance.call("/files/secret-plan.txt?key=x", { namespace: "alice" });
    const lines = () =>
      readFileSync(`${appliance.data}.log`, "utf8")
        .split("\n")
        .filter((line) => line.includes('"message":"request"'))
        .map((line) => JSON.parse(line) as Record<string, unknown>);
    await until(() => lines().some(({ route }) => route === "/files/*"));
    expect(lines().at(-1)).toMatchObject({
      role: "api",
      route: "/files/*",
      method: "GET",
      status: 404,
      namespace: "alice",
      workspace: appliance.keys.workspace_id,
      address: "127.0.0.1",
    });
    expect(lines().filter(({ route }) => route === "/readyz")).toEqual([]);
    expect(readFileSync(`${appliance.data}.log`, "utf8")).not.toContain("secret-plan");
  });

  test("that nobody reads holds nothing up, and tells later what is missing", async () => {
    const fifo = join("/scratch", `unread-${process.pid}`);
    Bun.spawnSync(["mkfifo", fifo]);
    const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    open.add(reader);
    const writer = openSync(fifo, constants.O_WRONLY);
    open.add(writer);
    const appliance = await start({ stderr: writer });
    // A pipe takes 64 KiB, and what waits in api and in serve is bounded too: this is ten times all of it.
    const calls = 20_000;
    for (let done = 0; done < calls; done += 100) {
      const answers = await Promise.all(
        Array.from({ length: 100 }, () => appliance.call("/v1/me", { namespace: null })),
      );
      expect(answers.every(({ status }) => status === 200)).toBe(true);
      await Promise.all(answers.map((answer) => answer.arrayBuffer()));
    }
    // sandboxd is in the process that has the pipe.
    const ran = await appliance.call("/v1/exec", { json: { command: "echo still here" } });
    expect(await ran.json()).toMatchObject({ stdout: "still here\n", exit_code: 0 });

    let text = "";
    const buffer = Buffer.alloc(1 << 20);
    const readOn = () => {
      try {
        text += buffer.toString("utf8", 0, readSync(reader, buffer, 0, buffer.length, null));
      } catch (error) {
        if (!(error instanceof Error && "code" in error && error.code === "EAGAIN")) throw error;
      }
    };
    const missing = '"message":"log lines were lost"';
    await until(() => (readOn(), text.includes(missing)));
    // There is room again, and so nothing more is lost.
    await appliance.call("/files/marker");
    await until(() => (readOn(), text.includes('"route":"/files/*"')));
    const lines = text.split("\n").slice(0, -1);
    const parsed = lines.map(
      (line) => JSON.parse(line) as { message: string; route?: string; lost?: number },
    );
    const lost = parsed.reduce((sum, line) => sum + (line.lost ?? 0), 0);
    const read = parsed.filter(({ route }) => route === "/v1/me").length;
    expect(lost).toBeGreaterThan(calls / 2);
    expect(read).toBeGreaterThan(500);
    // Some of what was lost may have been other lines, of the start and of the sandbox.
    expect(lost + read).toBeWithin(calls, calls + 100);
  });
});

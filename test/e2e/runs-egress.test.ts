import { afterAll, beforeAll, expect, test } from "bun:test";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { createAuthority } from "../fixtures/authority.ts";
import { hostState } from "../fixtures/host-state.ts";
import { makeRegistries } from "../fixtures/registries.ts";
import { runCalls } from "../fixtures/run-calls.ts";
import { until } from "../fixtures/until.ts";
import { startWeb, WEB, type Web } from "../fixtures/web.ts";

const CA = "/work/ca.pem";
const env = {
  CURL_CA_BUNDLE: CA,
  GIT_SSL_CAINFO: CA,
  PIP_CERT: CA,
  npm_config_cafile: CA,
};

let appliance: Appliance;
const { startRun, runOf, over, outputOf } = runCalls(() => appliance, { env });
let web: Web;
const authority = createAuthority();

beforeAll(async () => {
  web = await startWeb((name) => (name.endsWith(".test") ? [WEB] : null));
  makeRegistries("/tmp/registries", "files.test");
  await web.serve(WEB, {
    directory: "/tmp/registries",
    ...authority.issue("DNS:files.test", "DNS:other.test"),
  });
  appliance = await startAppliance({ config: "[exec]\npool = 0\n" });
  await appliance.call("/write", { json: { path: "ca.pem", content: authority.ca } });
}, 60_000);
afterAll(async () => {
  await appliance.stop();
  await web[Symbol.asyncDispose]();
  expect(hostState(appliance.inst)).toEqual([]);
});

test("curl, git, pip and npm in a sandbox reach the hosts of the run's lane, and are told why they reach no other", async () => {
  const id = await startRun({
    egress: { allow: ["files.test"] },
    command: [
      "curl -sS https://files.test/hello.txt",
      "git clone -q https://files.test/demo.git /tmp/demo && cat /tmp/demo/file.txt",
      "pip install -q --break-system-packages --no-cache-dir --target /tmp/pip -i https://files.test/pip/simple demo && ls /tmp/pip/demo.py",
      "cd /tmp && npm install --silent --no-audit --no-fund --registry=https://files.test/npm/ demo && ls node_modules/demo/demo.js",
      "curl -sSv https://other.test/ 2>&1 | grep -o 'other.test:443 is not among.*' | head -n 1",
      "curl -sS --noproxy '*' --max-time 3 https://files.test/ 2>&1",
    ].join("\n"),
  });
  const run = await over(id);
  const lines = (await outputOf(id)).trim().split("\n");
  expect(lines.slice(0, 5)).toEqual([
    "hello",
    "content",
    "/tmp/pip/demo.py",
    "node_modules/demo/demo.js",
    expect.stringMatching(/^other\.test:443 is not among the hosts that this run may reach/),
  ]);
  // Nobody answers it for a name either.
  expect(lines[5]).toMatch(/^curl: \((6|28)\)/);
  expect(run.usage.egress.connections).toBeGreaterThanOrEqual(4);
  expect(run.usage.egress.bytes).toBeGreaterThan(5_000);
  expect(run.denials).toContainEqual(expect.objectContaining({ kind: "egress", reason: "host" }));
}, 90_000);

test("without a lane there is no proxy in the environment", async () => {
  const id = await startRun({
    command: 'env | grep -ci proxy; echo "${HTTPS_PROXY:-none}"',
  });
  await over(id);
  expect((await outputOf(id)).trim().split("\n").slice(-2)).toEqual(["0", "none"]);
}, 60_000);

test("a gateway that is killed comes back, and the run's next call works", async () => {
  const id = await startRun({
    egress: { allow: ["files.test"] },
    stdin_open: true,
    command:
      "while read -r line; do curl -sS --retry 20 --retry-all-errors --retry-delay 1 https://files.test/hello.txt && echo $line; done",
  });
  const ask = async (line: string) => {
    await appliance.call(`/v1/runs/${id}/stdin`, { method: "POST", body: `${line}\n` });
    await until(async () => (await outputOf(id)).includes(`hello\n${line}\n`), 40_000);
  };
  await until(async () => (await runOf(id)).status === "running", 30_000);
  await ask("before");
  const pid = appliance.pid("gateway");
  process.kill(pid, "SIGKILL");
  await ask("after");
  expect(appliance.pid("gateway")).not.toBe(pid);
  await appliance.call(`/v1/runs/${id}/stdin?eof=true`, { method: "POST" });
  const run = await over(id);
  expect(run.status).toBe("succeeded");
  expect(run.usage.egress.connections).toBeGreaterThanOrEqual(2);
}, 120_000);

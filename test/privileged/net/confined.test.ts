import { afterAll, beforeAll, expect, test } from "bun:test";
import { appendFileSync, writeFileSync } from "node:fs";
import { createInstance, ensureRunDirectories, publishConfig } from "../../../src/instance/setup.ts";
import { createAuthority } from "../../fixtures/authority.ts";
import { startDnsServer, type DnsServer } from "../../fixtures/dns-server.ts";
import { runBeside } from "../../fixtures/role.ts";
import { ensureUsers } from "../../fixtures/users.ts";

/* In a throw-away copy: the resolver, the hosts file and the authorities are the machine's own, changed for this. */
const DATA = "/scratch/confined-net";
const OWN = "192.0.2.77";
const stops: (() => unknown)[] = [];
const env = { COFFERDAM_PROBE_RECEIVER: "", COFFERDAM_PROBE_SILENT: "" };
let dns: DnsServer;

beforeAll(async () => {
  ensureUsers();
  const instance = createInstance(DATA);
  ensureRunDirectories(instance);
  publishConfig(instance, null);
  dns = await startDnsServer((name) => (name === "hooks.test" ? ["127.0.0.1"] : null), { port: 53 });
  writeFileSync("/etc/resolv.conf", "nameserver 127.0.0.1\n");
  appendFileSync("/etc/hosts", "127.0.0.9 in-hosts.test\n");
  expect(Bun.spawnSync(["ip", "address", "add", `${OWN}/32`, "dev", "lo"]).exitCode).toBe(0);
  const authority = createAuthority();
  appendFileSync("/etc/ssl/certs/ca-certificates.crt", `\n${authority.ca}`);
  const receiver = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    tls: authority.issue("DNS:hooks.test"),
    fetch: () => new Response("ok"),
  });
  const silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  env.COFFERDAM_PROBE_RECEIVER = `https://hooks.test:${receiver.port}/`;
  env.COFFERDAM_PROBE_SILENT = String(silent.port);
  stops.push(
    () => receiver.stop(true),
    () => silent.stop(true),
    () => dns[Symbol.asyncDispose](),
  );
});

afterAll(async () => {
  for (const stop of stops) await stop();
});

test("as the confined api, names are found, the host's authorities believed, and what waits holds up nothing", async () => {
  expect(await runBeside("confined", "api", DATA, "call-out.ts", env)).toEqual({
    "a name in /etc/hosts": ["127.0.0.9"],
    "a name of the resolver's": ["127.0.0.1"],
    "a name that is not": [],
    "own addresses": ["127.0.0.1", OWN],
    "without leave": "The URL leads to a loopback address.",
    "a call, while others wait": 200,
  });
  expect(dns.asked).toContain("hooks.test");
});

test("without what confining sets for it, Bun believes none but its own and lets calls wait for each other", async () => {
  expect(await runBeside("bare", "api", DATA, "call-out.ts", env)).toMatchObject({
    "own addresses": ["127.0.0.1", OWN],
    "a call, while others wait": expect.stringMatching(/did not answer within 3 s/),
  });
  const raised = { ...env, BUN_CONFIG_MAX_HTTP_REQUESTS: "1000" };
  expect(await runBeside("bare", "api", DATA, "call-out.ts", raised)).toMatchObject({
    "a call, while others wait": expect.stringMatching(/a certificate that is not trusted/),
  });
});

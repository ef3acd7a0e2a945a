import { afterAll, beforeEach, expect, test } from "bun:test";
import { getServers, setServers } from "node:dns";
import { createDialer } from "../../../src/net/dial.ts";
import { createOwnAddresses } from "../../../src/net/own.ts";
import { createAddressPolicy, type VettedAddress } from "../../../src/net/policy.ts";
import { createResolver } from "../../../src/net/resolve.ts";
import { parseTarget, vet, type Target } from "../../../src/net/target.ts";
import { startDnsServer } from "../../fixtures/dns-server.ts";
import { failureOf } from "../../fixtures/failure.ts";

/**
 * The lookups are the real ones, by a name server of this test's own. Only loopback can be dialled here: 127.0.0.2 stands
 * for the public address that may be, and 127.0.0.1, at the same port, for the inner one that may not.
 */
const OUTER = "127.0.0.2";
const INNER = "127.0.0.1";
const policy = createAddressPolicy({
  allowPrivate: () => [`${OUTER}/32`],
  setting: "the test",
  isOwn: createOwnAddresses(),
  mayAllowThisHost: true,
});
const vetting = { policy, resolve: createResolver({ timeoutMs: 1000 }) };

const usualServers = getServers();
const dialer = createDialer();
const reached: string[] = [];
const receive = (hostname: string, port: number) =>
  Bun.serve({
    hostname,
    port,
    fetch(request) {
      reached.push(`${hostname} for ${request.headers.get("host")}`);
      return new Response("ok");
    },
  });
const inner = receive(INNER, 0);
const outer = receive(OUTER, inner.port ?? 0);
const { port } = inner;

beforeEach(() => void reached.splice(0));
afterAll(async () => {
  setServers(usualServers);
  dialer.close();
  await Promise.all([inner.stop(true), outer.stop(true)]);
});

const hook = parseTarget(`http://hook.test:${port}/`, { allowHttp: true });
const post = (target: Target, address: VettedAddress) =>
  dialer.post(target, address, { headers: {}, body: "{}", timeoutMs: 5000, maxAnswerBytes: 100 });
const REFUSED = "The URL leads to a loopback address.";

test("a name that leads elsewhere after its registration is refused at the delivery", async () => {
  await using dns = await startDnsServer((_name, before) => [before === 0 ? OUTER : INNER]);
  dns.use();
  // At the registration.
  expect(await vet(hook, vetting)).toEqual([OUTER as VettedAddress]);
  // At the delivery, and at each that is tried again.
  expect(await failureOf(vet(hook, vetting))).toContain(REFUSED);
  expect(await failureOf(vet(hook, vetting))).toContain(REFUSED);
  expect(dns.asked).toEqual(["hook.test", "hook.test", "hook.test"]);
  expect(reached).toEqual([]);

  // Without the policy, the same lookup leads inside.
  const [address] = await vetting.resolve(hook.host);
  expect((await post(hook, address as VettedAddress)).status).toBe(200);
  expect(reached).toEqual([`${INNER} for hook.test:${port}`]);
});

test("the address that was vetted is the one dialled: nothing is looked up between", async () => {
  await using dns = await startDnsServer((_name, before) => [before === 0 ? OUTER : INNER]);
  dns.use();
  const [address] = await vet(hook, vetting);
  expect((await post(hook, address)).status).toBe(200);
  expect((await post(hook, address)).status).toBe(200);
  expect(reached).toEqual([`${OUTER} for hook.test:${port}`, `${OUTER} for hook.test:${port}`]);
  expect(dns.asked).toEqual(["hook.test"]);

  // A second lookup would have led inside.
  expect(await vetting.resolve(hook.host)).toEqual([INNER]);
});

test("an inner address among others is not dialled, nor are they", async () => {
  await using dns = await startDnsServer(() => [OUTER, INNER]);
  dns.use();
  expect(await failureOf(vet(hook, vetting))).toContain(REFUSED);
  expect((await vetting.resolve(hook.host)).toSorted()).toEqual([INNER, OUTER]);
});

test("a name that is not there, and a name server that does not answer, are said", async () => {
  await using dns = await startDnsServer((name) => (name.startsWith("silent") ? undefined : null));
  dns.use();
  expect(await failureOf(vet(hook, vetting))).toContain(
    "The URL has a host, hook.test, that has no address in DNS.",
  );
  const silent = parseTarget("https://silent.test/", { allowHttp: false });
  expect(await failureOf(vet(silent, vetting))).toContain(
    "silent.test could not be looked up: DNS did not answer.",
  );
});

test("names whose servers never answer hold up neither files nor other names", async () => {
  await using dns = await startDnsServer((name) => (name.startsWith("silent") ? undefined : [OUTER]));
  dns.use();
  const silent = Array.from({ length: 100 }, (_, index) =>
    vetting.resolve(`silent-${index}.test`).then(
      () => "answered",
      () => "given up",
    ),
  );
  const first = Promise.race(silent);
  expect(await Promise.race([vetting.resolve("hook.test"), first])).toEqual([OUTER]);
  expect(await Promise.race([Bun.file(import.meta.path).text(), first])).toContain("import");
  expect(new Set(await Promise.all(silent))).toEqual(new Set(["given up"]));
});

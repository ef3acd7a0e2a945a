import { expect, test } from "bun:test";
import { createCall } from "../../../src/gateway/call.ts";
import { createAddressPolicy } from "../../../src/net/policy.ts";
import { failureOf } from "../../fixtures/failure.ts";

const dialled: string[] = [];
const addresses: Record<string, string[]> = {
  "public.test": ["192.0.78.9"],
  "inner.test": ["10.1.2.3"],
  "mixed.test": ["192.0.78.9", "10.9.9.9"],
  "here.test": ["127.0.0.1"],
};
const call = createCall({
  dialer: {
    async request(target, address) {
      dialled.push(`${target.href} at ${address}`);
      return new Response();
    },
  },
  vetting: {
    policy: createAddressPolicy({
      allowPrivate: () => ["10.1.0.0/16"],
      setting: "[providers] allow_private",
      isOwn: () => false,
      mayAllowThisHost: true,
    }),
    resolve: async (name) => addresses[name] ?? [],
  },
});
const ask = (url: string) => call(url, { method: "GET", headers: {}, signal: AbortSignal.timeout(1000) });

test("a provider is dialled at the address that was judged", async () => {
  await ask("https://public.test/a");
  await ask("http://inner.test:8080/b");
  expect(dialled).toEqual(["https://public.test/a at 192.0.78.9", "http://inner.test:8080/b at 10.1.2.3"]);
});

test.each([
  ["http://public.test/", "is reached by https:// only"],
  ["http://192.0.78.9/", "is reached by https:// only"],
  ["https://mixed.test/", "an address of a private network"],
  ["https://here.test/", "a loopback address"],
  ["https://169.254.169.254/", "link-local"],
  ["https://nowhere.test/", "has no address in DNS"],
])("%s is not dialled", async (url, why) => {
  dialled.length = 0;
  expect(await failureOf(ask(url))).toContain(why);
  expect(dialled).toEqual([]);
});

import { afterAll, expect, test } from "bun:test";
import { createDialer } from "../../../src/net/dial.ts";
import { createAddressPolicy } from "../../../src/net/policy.ts";
import { createPoster } from "../../../src/webhooks/post.ts";
import { startReceiver } from "../../fixtures/receiver.ts";
import { startTestWebhooks } from "../../fixtures/webhooks.ts";

const receiver = startReceiver();
const dialer = createDialer();
afterAll(async () => {
  dialer.close();
  await receiver.stop();
});

/** By a policy that lets in this host, and a resolver whose answer the test changes. */
function poster({ timeoutMs, allowed = ["127.0.0.0/8"] }: { timeoutMs?: number; allowed?: string[] } = {}) {
  const policy = createAddressPolicy({
    allowPrivate: () => allowed,
    setting: "the test",
    isOwn: () => false,
    mayAllowThisHost: true,
  });
  const dns = { answer: ["127.0.0.1"], asked: 0 };
  const resolve = async () => {
    dns.asked++;
    return dns.answer;
  };
  const made = createPoster({
    dialer,
    vetting: { policy, resolve },
    allowHttp: () => true,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
  return { ...made, dns };
}

test("a name that leads elsewhere after registration is caught at the next attempt, and nothing is dialled", async () => {
  const { check, post, dns } = poster();
  const url = await check(`http://rebind.test:${receiver.port}/hook`);
  const w = await startTestWebhooks({ post });
  const { webhook } = await w.create(url, { events: ["file.written"] });
  receiver.received.length = 0;
  await w.happen(1);
  await receiver.until((received) => received.length === 1);
  await w.settled();
  expect(dns.asked).toBe(2);

  for (const address of ["169.254.169.254", "10.0.0.1", "::ffff:10.0.0.1", "fd00::1"]) {
    // Beside one that would do, as well.
    dns.answer = ["127.0.0.1", address];
    await w.happen(1);
    await w.settled();
    const [newest] = await w.webhooks.deliveries(webhook, { state: null, before: null, limit: 1 });
    expect(newest).toMatchObject({ state: "waiting", status: null, attempts: 1 });
    expect(newest?.error).toMatch(/^The URL leads to /);
    expect(newest?.error).not.toContain(address);
  }
  expect(receiver.received).toHaveLength(1);

  dns.answer = ["127.0.0.1"];
  await w.pass(3_600_000);
  expect(receiver.received).toHaveLength(5);
  await w.close();
});

test("an address that the operator no longer allows is dialled no more", async () => {
  const allowed = ["127.0.0.0/8"];
  const { check, post } = poster({ allowed });
  const url = await check(`http://h.test:${receiver.port}/`);
  const call = { url, headers: {}, body: "{}", attempts: 1, signal: new AbortController().signal };
  expect((await post(call)).status).toBe(200);
  allowed.length = 0;
  expect(post(call)).rejects.toThrow("a loopback address");
});

test("the next attempt takes the next of the addresses", async () => {
  const { check, post, dns } = poster();
  dns.answer = ["127.0.0.1", "127.1.2.3"];
  const url = await check(`http://two.test:${receiver.port}/`);
  const answers = await Promise.allSettled(
    [1, 2, 3].map((attempts) =>
      post({ url, headers: {}, body: "{}", attempts, signal: new AbortController().signal }),
    ),
  );
  // Only the first is listened at.
  expect(answers.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
});

test("a redirect is not followed, even to where it came from", async () => {
  const { check, post } = poster();
  receiver.received.length = 0;
  receiver.behaviour.answer = () => Response.redirect(`${receiver.url}/secret`, 307);
  const url = await check(`http://h.test:${receiver.port}/`);
  expect(
    (await post({ url, headers: {}, body: "{}", attempts: 1, signal: new AbortController().signal })).status,
  ).toBe(307);
  expect(receiver.received.map(({ path }) => path)).toEqual(["/"]);
  receiver.behaviour.answer = () => new Response("ok");
});

test("an answer without end, or none at all, is left in time", async () => {
  const { check, post } = poster({ timeoutMs: 300 });
  const url = await check(`http://h.test:${receiver.port}/`);
  const call = { url, headers: {}, body: "{}", attempts: 1, signal: new AbortController().signal };
  let sent = 0;
  const endless = () =>
    new Response(
      new ReadableStream({
        pull(controller) {
          sent += 65_536;
          controller.enqueue(new Uint8Array(65_536));
        },
      }),
    );
  receiver.behaviour.answer = endless;
  expect((await post(call)).status).toBe(200);
  // What the sockets' buffers took besides.
  expect(sent).toBeLessThan(32 * 1024 * 1024);
  const drip = () =>
    new Response(
      new ReadableStream({
        async pull(controller) {
          await Bun.sleep(50);
          controller.enqueue(new Uint8Array(1));
        },
      }),
    );
  receiver.behaviour.answer = drip;
  expect((await post(call)).status).toBe(200);
  receiver.behaviour.answer = () => new Promise<Response>(() => {});
  expect(post(call)).rejects.toThrow("did not answer within 0.3 s");
  receiver.behaviour.answer = () => new Response("ok");
});

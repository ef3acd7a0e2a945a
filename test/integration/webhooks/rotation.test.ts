import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { Webhook } from "standardwebhooks";
import { APPLIANCE } from "../../../src/audit/event.ts";
import { sdkBin } from "../../fixtures/sdk.ts";
import { startTestWebhooks, type Posted } from "../../fixtures/webhooks.ts";

setDefaultTimeout(60_000);

const HOUR = 3_600_000;
const TEN_YEARS_S = 315_360_000;

/** The SDK's verify_webhook, asked line by line; the tests' clock is of another year. */
function startVerifier() {
  const program = `
import json, sys
from trove_sdk import WebhookSignatureError, verify_webhook
for line in sys.stdin:
    try:
        event = verify_webhook(**json.loads(line), tolerance_seconds=${TEN_YEARS_S})
        print(event.id, flush=True)
    except WebhookSignatureError as error:
        print(f"no: {error}", flush=True)
`;
  const python = Bun.spawn([join(sdkBin(), "python"), "-c", program], { stdin: "pipe", stdout: "pipe" });
  const lines = createInterface({ input: Readable.fromWeb(python.stdout as never) })[Symbol.asyncIterator]();
  let turn: Promise<string> = Promise.resolve("");
  return {
    verify(secret: string, { body, headers }: Posted): Promise<string> {
      const call = { secret, body, signature_header: headers["x-trove-signature"] };
      turn = turn.then(async () => {
        void python.stdin.write(`${JSON.stringify(call)}\n`);
        await python.stdin.flush();
        const { value } = await lines.next();
        return value as string;
      });
      return turn;
    },
    async stop() {
      await python.stdin.end();
      await python.exited;
    },
  };
}

const sdk = startVerifier();
afterAll(() => sdk.stop());

/** As a receiver with one secret does it: by the SDK, which reads one signature of a header only. */
function receiverWith(secret: () => string) {
  return async (call: Posted) => ({ status: (await sdk.verify(secret(), call)) === call.id ? 200 : 401 });
}

test("the SDK's verifier takes a delivery by its secret, and no other or changed one", async () => {
  const w = await startTestWebhooks();
  const { signingSecret } = await w.create("https://h/", { events: ["file.written"] });
  const [id] = await w.happen(1);
  await w.settled();
  const call = w.posted[0]!;
  expect(await sdk.verify(signingSecret, call)).toBe(id!);
  expect(
    await sdk.verify(signingSecret, { ...call, body: call.body.replace("workspace", "werkspace") }),
  ).toMatch(/^no:/);
  expect(await sdk.verify(`${signingSecret}x`, call)).toMatch(/^no:/);
  await w.close();
});

test("for a day after a rotation both secrets verify, whenever the receiver changes over; then only the new one", async () => {
  const w = await startTestWebhooks();
  const { webhook, signingSecret: before } = await w.create("https://h/", { events: ["file.written"] });
  const { signingSecret: after } = await w.webhooks.rotate(w.workspace, webhook.id, 24 * HOUR, APPLIANCE);
  const has = { secret: before };
  w.behaviour.answer = receiverWith(() => has.secret);
  const delivered = async () =>
    (await w.webhooks.deliveries(webhook, { state: "delivered", before: null, limit: 100 })).length;

  await w.happen(5);
  await w.settled();
  expect(await delivered()).toBe(5);
  expect(w.posted).toHaveLength(5);
  for (const secret of [before, after]) {
    const { headers, body } = w.posted[0]!;
    const signature = new Webhook(secret).sign(w.posted[0]!.id, new Date(w.clock.now()), body);
    expect(headers["webhook-signature"]?.split(" ")).toContain(signature);
  }

  // It changes over. What it refuses once comes again, and what comes after is as it wants it.
  has.secret = after;
  await w.happen(1);
  await w.settled();
  expect(await delivered()).toBe(5);
  await w.pass(6_000);
  expect(await delivered()).toBe(6);
  const tries = w.posted.length;
  await w.happen(5);
  await w.settled();
  expect(await delivered()).toBe(11);
  expect(w.posted.length - tries).toBe(5);

  await w.pass(24 * HOUR);
  has.secret = before;
  await w.happen(1);
  await w.settled();
  await w.pass(6_000);
  expect(await delivered()).toBe(11);
  expect(w.posted.at(-1)?.headers["webhook-signature"]).not.toContain(" ");
  await w.webhooks.sweep();
  const { rows } = await w.db.$client.execute("SELECT previous_secret FROM webhooks");
  expect(rows[0]?.["previous_secret"]).toBeNull();
  await w.close();
});

test("a secret that leaked is replaced at once", async () => {
  const w = await startTestWebhooks();
  const { webhook, signingSecret: before } = await w.create("https://h/", { events: ["file.written"] });
  const { signingSecret: after } = await w.webhooks.rotate(w.workspace, webhook.id, 0, APPLIANCE);
  const [id] = await w.happen(1);
  await w.settled();
  expect(await sdk.verify(after, w.posted[0]!)).toBe(id!);
  expect(await sdk.verify(before, w.posted[0]!)).toMatch(/^no:/);
  const { rows } = await w.db.$client.execute("SELECT previous_secret FROM webhooks");
  expect(rows[0]?.["previous_secret"]).toBeNull();
  await w.close();
});

test("what was rotated before a restart still signs after it", async () => {
  const first = await startTestWebhooks();
  const { webhook, signingSecret: before } = await first.create("https://h/", { events: ["file.written"] });
  const { signingSecret: after } = await first.webhooks.rotate(
    first.workspace,
    webhook.id,
    24 * HOUR,
    APPLIANCE,
  );
  await first.close();
  const second = await startTestWebhooks({ dir: first.dir, workspace: first.workspace });
  await second.happen(1);
  await second.settled();
  const { headers, body, id } = second.posted[0]!;
  for (const secret of [before, after]) {
    const signature = new Webhook(secret).sign(id, new Date(second.clock.now()), body);
    expect(headers["webhook-signature"]?.split(" ")).toContain(signature);
  }
  await second.close();
});

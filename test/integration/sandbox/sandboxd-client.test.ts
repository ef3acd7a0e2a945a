import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { namespaceId } from "../../../src/ids.ts";
import { createLog } from "../../../src/log.ts";
import { MAX_LINE_BYTES } from "../../../src/protocol/sandboxd.ts";
import { listenForSandboxes, type Connections } from "../../../src/sandbox/connections.ts";
import { createSandboxdClient, type SandboxdClient } from "../../../src/sandbox/sandboxd-client.ts";
import { FakeSandboxd } from "../../fixtures/fake-sandboxd.ts";
import { until } from "../../fixtures/until.ts";

const log = createLog("test", () => {});
let dir: string;
let connections: Connections;
let sandboxd: FakeSandboxd;
let client: SandboxdClient;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "cd-"));
  connections = listenForSandboxes({ path: join(dir, "sb"), trustedUid: 0, peerUid: () => 0, log });
  sandboxd = new FakeSandboxd({ path: join(dir, "sd"), sandboxesPath: join(dir, "sb") });
  sandboxd.start();
  client = createSandboxdClient({ path: join(dir, "sd"), log });
});

afterEach(() => {
  client.close();
  sandboxd.stop();
  connections.close();
  rmSync(dir, { recursive: true });
});

describe("sandboxd client", () => {
  test("answers reach the requests that they belong to, many at once", async () => {
    const namespaces = Array.from({ length: 20 }, () => namespaceId.make());
    const answers = await Promise.all(
      namespaces.map((namespace) => client.call("ensureSandbox", { namespace })),
    );
    for (const [i, { sandbox }] of answers.entries()) expect(sandboxd.of(namespaces[i]!)?.[0]).toBe(sandbox);
  });

  test("away: unavailable at once, and well again when it is back, without being told", async () => {
    sandboxd.stop();
    const gone = client.call("ensureSandbox", { namespace: namespaceId.make() });
    expect(await gone.catch((error: unknown) => error)).toMatchObject({
      code: "unavailable",
      retryAfterS: 2,
    });
    sandboxd.start();
    expect(await client.call("ensureSandbox", { namespace: namespaceId.make() })).toBeDefined();
  });

  test("is connected before it is asked anything, and again when sandboxd was away", async () => {
    await until(() => sandboxd.clients === 1);
    sandboxd.stop();
    await until(() => sandboxd.clients === 0);
    sandboxd.start();
    await until(() => sandboxd.clients === 1);
  });

  test("dies with requests in flight: each fails, the next one works", async () => {
    sandboxd.delayMs = 1_000;
    const calls = [1, 2, 3].map(() => client.call("ensureSandbox", { namespace: namespaceId.make() }));
    const outcomes = Promise.allSettled(calls);
    await Bun.sleep(20);
    sandboxd.stop();
    for (const outcome of await outcomes) {
      expect(outcome).toMatchObject({ status: "rejected", reason: { code: "unavailable" } });
    }
    sandboxd.delayMs = 0;
    sandboxd.start();
    expect(await client.call("ensureSandbox", { namespace: namespaceId.make() })).toBeDefined();
  });

  test.each([
    ["unavailable", "unavailable", "No room."],
    ["failed", "unavailable", "The sandbox could not be prepared. The server's log says why."],
    ["bad_request", "internal", "The server asked for something that its sandbox service does not do."],
  ] as const)("an answer of %s is %s", async (code, expected, sentence) => {
    sandboxd.failNext = { code, detail: "No room." };
    const error = await client
      .call("ensureSandbox", { namespace: namespaceId.make() })
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: expected, message: sentence });
  });

  test.each([
    ["no JSON", "nonsense"],
    ["another shape", '{"id":1,"ok":true}{'],
    ["another operation's result", '{"id":1,"ok":true,"result":{"checks":[]}}'],
    ["an endless line", "x".repeat(MAX_LINE_BYTES + 1)],
  ])("%s ends the connection, and the next request gets a new one", async (_what, line) => {
    sandboxd.rawAnswer = line;
    const call = client.call("ensureSandbox", { namespace: namespaceId.make() });
    expect(await call.catch((error: unknown) => error)).toMatchObject({ code: "unavailable" });
    sandboxd.rawAnswer = undefined;
    expect(await client.call("ensureSandbox", { namespace: namespaceId.make() })).toBeDefined();
  });
});

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sandboxId } from "../../../src/ids.ts";
import { createLog } from "../../../src/log.ts";
import { listenForSandboxes, type Connections } from "../../../src/sandbox/connections.ts";
import { FakeInit, readyFrame } from "../../fixtures/fake-init.ts";
import { until } from "../../fixtures/until.ts";

const log = createLog("test", () => {});
const nonce = "0123456789abcdef".repeat(4);
let dir: string;
let path: string;
let connections: Connections;
let peer = 0;

function listen(maxUnclaimed = 4): Connections {
  return listenForSandboxes({
    path,
    trustedUid: 0,
    peerUid: () => peer,
    log,
    maxUnclaimed,
    helloTimeoutMs: 100,
    claimTimeoutMs: 100,
  });
}

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "cd-"));
  path = join(dir, "sb");
  peer = 0;
  connections = listen();
});

afterEach(() => {
  connections.close();
  rmSync(dir, { recursive: true });
});

const hello = (sandbox: string, withNonce = nonce): string =>
  `${JSON.stringify({ sandbox, nonce: withNonce })}\n`;

describe("connections", () => {
  test("the socket is its owner's only", () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test("a claimed connection carries what was said before and after the claim, both ways", async () => {
    const sandbox = sandboxId.make();
    const init = await FakeInit.connect({ path, hello: hello(sandbox) });
    await until(() => connections.unclaimed === 1);
    const connection = await connections.claim(sandbox, nonce);
    const heard: Uint8Array[] = [];
    let closes = 0;
    connection.attach({ data: (chunk) => heard.push(chunk), close: () => (closes += 1) });
    init.send(Buffer.from("later"));
    const expected = Buffer.concat([readyFrame(), Buffer.from("later")]);
    await until(() => Buffer.concat(heard).equals(expected));
    expect(connections.unclaimed).toBe(0);
    connection.close();
    await until(() => init.closed);
    expect(closes).toBe(1);
  });

  test("a claim waits for the connection, but not for ever", async () => {
    const sandbox = sandboxId.make();
    const claim = connections.claim(sandbox, nonce);
    await FakeInit.connect({ path, hello: hello(sandbox) });
    expect(await claim).toBeDefined();
    const never = connections.claim(sandboxId.make(), nonce);
    expect(await never.catch((error: unknown) => error)).toMatchObject({ code: "unavailable" });
  });

  test("a wrong nonce is refused, and the connection ended", async () => {
    const sandbox = sandboxId.make();
    const init = await FakeInit.connect({ path, hello: hello(sandbox, nonce.replace("0", "1")) });
    const claim = connections.claim(sandbox, nonce);
    expect(await claim.catch((error: unknown) => error)).toMatchObject({ code: "internal" });
    await until(() => init.closed);
    expect(connections.unclaimed).toBe(0);
  });

  test("each can be claimed once", async () => {
    const sandbox = sandboxId.make();
    await FakeInit.connect({ path, hello: hello(sandbox) });
    await connections.claim(sandbox, nonce);
    expect(await connections.claim(sandbox, nonce).catch((error: unknown) => error)).toMatchObject({
      code: "unavailable",
    });
  });

  test("a second connection in a sandbox's name is refused, the first stays", async () => {
    const sandbox = sandboxId.make();
    const first = await FakeInit.connect({ path, hello: hello(sandbox) });
    await until(() => connections.unclaimed === 1);
    const second = await FakeInit.connect({ path, hello: hello(sandbox) });
    await until(() => second.closed);
    expect(first.closed).toBe(false);
    expect(await connections.claim(sandbox, nonce)).toBeDefined();
  });

  test("a peer of another uid is refused before it is read", async () => {
    peer = 1000;
    const init = await FakeInit.connect({ path, hello: hello(sandboxId.make()) });
    await until(() => init.closed);
    expect(connections.unclaimed).toBe(0);
  });

  test.each([
    ["no JSON", "hello\n"],
    ["no sandbox id", `${JSON.stringify({ sandbox: "../etc", nonce })}\n`],
    ["a field too many", `${JSON.stringify({ sandbox: "sb-aaaaaaaaaa", nonce, uid: 0 })}\n`],
    ["an endless line", "x".repeat(300)],
    ["nothing in time", ""],
    ["more than READY before the claim", `${hello("sb-aaaaaaaaaa")}${"x".repeat(100)}`],
  ])("a first line that is %s ends the connection", async (_what, text) => {
    const init = await FakeInit.connect({ path, hello: text, ready: false });
    await until(() => init.closed);
    expect(connections.unclaimed).toBe(0);
  });

  test("keeps a bounded number, and makes room when one goes", async () => {
    const inits: FakeInit[] = [];
    for (let i = 0; i < 4; i += 1)
      inits.push(await FakeInit.connect({ path, hello: hello(sandboxId.make()) }));
    await until(() => connections.unclaimed === 4);
    const fifth = await FakeInit.connect({ path, hello: hello(sandboxId.make()) });
    await until(() => fifth.closed);
    inits[0]!.die();
    await until(() => connections.unclaimed === 3);
    const sixth = await FakeInit.connect({ path, hello: hello(sandboxId.make()) });
    await until(() => connections.unclaimed === 4);
    expect(sixth.closed).toBe(false);
  });

  test("takes the place of a socket that a dead process left", () => {
    connections.close();
    const script = `Bun.listen({ unix: "${path}", socket: { data() {} } }); process.kill(process.pid, "SIGKILL");`;
    Bun.spawnSync([process.execPath, "-e", script]);
    expect(statSync(path).isSocket()).toBe(true);
    connections = listen();
    expect(statSync(path).isSocket()).toBe(true);
  });
});

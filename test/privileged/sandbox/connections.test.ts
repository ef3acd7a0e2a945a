import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, rmSync, statSync, chmodSync, chownSync, writeSync, closeSync, readSync } from "node:fs";
import { sandboxId } from "../../../src/ids.ts";
import { KernelError } from "../../../src/kernel/libc.ts";
import { peerCredentials } from "../../../src/kernel/peer.ts";
import { connectUnix } from "../../../src/kernel/unixsocket.ts";
import { roleUser } from "../../../src/kernel/users.ts";
import { createLog } from "../../../src/log.ts";
import { listenForSandboxes, type Connections } from "../../../src/sandbox/connections.ts";
import { ensureUsers } from "../../fixtures/users.ts";
import { asUid } from "../sandboxd/stage.ts";

const DIR = "/scratch/sandboxes";
const PATH = `${DIR}/s.sock`;
const nonce = "0123456789abcdef".repeat(4);
let connections: Connections;

beforeEach(() => {
  ensureUsers();
  const api = roleUser("cofferdam");
  mkdirSync(DIR, { recursive: true });
  chownSync(DIR, api.uid, api.gid);
  connections = asUid(api.uid, () =>
    listenForSandboxes({
      path: PATH,
      trustedUid: 0,
      peerUid: (fd) => peerCredentials(fd).uid,
      log: createLog("test", () => {}),
      claimTimeoutMs: 200,
    }),
  );
});

afterEach(() => {
  connections.close();
  rmSync(DIR, { recursive: true });
});

/** Says a perfect hello as this uid. */
function helloAs(uid: number): { sandbox: ReturnType<typeof sandboxId.make>; fd: number } {
  const sandbox = sandboxId.make();
  const fd = asUid(uid, () => connectUnix(PATH));
  writeSync(fd, `${JSON.stringify({ sandbox, nonce })}\n`);
  return { sandbox, fd };
}

test("root's connection is taken; that of any other uid, api's own too, is not, even where the mode lets it in", async () => {
  const root = helloAs(0);
  expect(await connections.claim(root.sandbox, nonce)).toBeDefined();

  chmodSync(PATH, 0o666);
  for (const uid of [roleUser("cofferdam").uid, roleUser("cofferdam-gw").uid, 65534]) {
    const other = helloAs(uid);
    const refused = await connections.claim(other.sandbox, nonce).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: "unavailable" });
    // It was ended, not just left alone: with the hello unread, that is a reset.
    expect(() => readSync(other.fd, Buffer.alloc(1))).toThrow("ECONNRESET");
    closeSync(other.fd);
  }
  closeSync(root.fd);
});

test("others do not get as far as that: the socket is api's alone", () => {
  expect(statSync(PATH)).toMatchObject({ uid: roleUser("cofferdam").uid, mode: 0o140600 });
  let error: unknown;
  try {
    helloAs(roleUser("cofferdam-gw").uid);
  } catch (reason) {
    error = reason;
  }
  expect(error).toBeInstanceOf(KernelError);
  expect(error).toMatchObject({ code: "EACCES" });
});

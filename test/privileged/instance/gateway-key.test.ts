import { beforeAll, expect, test } from "bun:test";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { ensureGatewayKey, publishGatewayKey } from "../../../src/instance/gateway-key.ts";
import type { Instance } from "../../../src/instance/instance.ts";
import { openKeyring } from "../../../src/instance/keyring.ts";
import { placeRestored, stagingOf } from "../../../src/instance/restored.ts";
import { rotateMasterKey } from "../../../src/instance/rotation.ts";
import { createInstance, ensureRunDirectories } from "../../../src/instance/setup.ts";
import { roleUser } from "../../../src/kernel/users.ts";
import { takeKey } from "../../../src/gateway/key.ts";
import { ensureUsers } from "../../fixtures/users.ts";

beforeAll(() => ensureUsers());

const secretOf = ({ keyringFile, masterKeyFile }: Instance) =>
  openKeyring(keyringFile, readFileSync(masterKeyFile)).secret;

function makeInstance(name: string): Instance {
  const instance = createInstance(`/scratch/${name}`);
  ensureRunDirectories(instance);
  return instance;
}

test("it is made once, is root's and sealed on the disk, and is taken away by the start that it is for", () => {
  const instance = makeInstance("gateway-key");
  const { publishedGatewayKey: published, gateway } = instance;
  expect(publishGatewayKey(instance, secretOf(instance))).toBeNull();
  const { uid } = roleUser("cofferdam-gw");
  expect([statSync(published).uid, statSync(published).mode & 0o777]).toEqual([uid, 0o400]);
  expect([statSync(gateway.keyFile).uid, statSync(gateway.keyFile).mode & 0o777]).toEqual([0, 0o600]);
  const key = takeKey(published);
  expect(key).toHaveLength(32);
  expect(readFileSync(gateway.keyFile).includes(Buffer.from(key!))).toBe(false);
  expect([existsSync(published), takeKey(published)]).toEqual([false, null]);
  publishGatewayKey(instance, secretOf(instance));
  expect(takeKey(published)).toEqual(key);
  // A new master key wraps the same secret.
  rotateMasterKey(instance);
  publishGatewayKey(instance, secretOf(instance));
  expect(takeKey(published)).toEqual(key);
});

test("whatever the gateway has put in its place, root writes there and nowhere else", () => {
  const instance = makeInstance("gateway-planted");
  const path = instance.publishedGatewayKey;
  writeFileSync("/scratch/gateway-victim", "precious");
  symlinkSync("/scratch/gateway-victim", path);
  expect(publishGatewayKey(instance, secretOf(instance))).toBeNull();
  expect(readFileSync("/scratch/gateway-victim", "utf8")).toBe("precious");
  expect(lstatSync(path).isFile()).toBe(true);
  rmSync(path);
  mkdirSync(path);
  writeFileSync(join(path, "inside"), "");
  expect(() => publishGatewayKey(instance, secretOf(instance))).toThrow();
  expect(existsSync(join(path, "inside"))).toBe(true);
});

test("without the secret, or with another's, there is none, and why is told", () => {
  const instance = makeInstance("gateway-without");
  publishGatewayKey(instance, secretOf(instance));
  expect(publishGatewayKey(instance, null)).toContain("master key is kept elsewhere");
  expect(takeKey(instance.publishedGatewayKey)).toBeNull();
  expect(publishGatewayKey(instance, new Uint8Array(32))).toContain(
    "gateway.key is damaged or another appliance's",
  );
  expect(takeKey(instance.publishedGatewayKey)).toBeNull();
});

test("a restore brings the backup's key with its secret, or leaves none of another secret's", () => {
  const other = makeInstance("gateway-other");
  const key = ensureGatewayKey(other, secretOf(other));
  for (const [name, brings] of [
    ["brings", true],
    ["lacks", false],
  ] as const) {
    const instance = makeInstance(`gateway-${name}`);
    const own = ensureGatewayKey(instance, secretOf(instance));
    const staging = stagingOf(instance.data);
    mkdirSync(staging.dir);
    writeFileSync(staging.keyring, readFileSync(other.keyringFile));
    if (brings) writeFileSync(staging.gatewayKey, readFileSync(other.gateway.keyFile));
    writeFileSync(staging.ready, "backup\n");
    writeFileSync(instance.masterKeyFile, readFileSync(other.masterKeyFile));
    expect(placeRestored(instance.data)).toBe(true);
    const restored = ensureGatewayKey(instance, secretOf(instance));
    expect(restored).not.toEqual(own);
    if (brings) expect(restored).toEqual(key);
    else expect(restored).not.toEqual(key);
  }
});

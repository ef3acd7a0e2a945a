import { expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Instance } from "../../../src/instance/instance.ts";
import { openKeyring } from "../../../src/instance/keyring.ts";
import { rotateMasterKey, type RotationStep } from "../../../src/instance/rotation.ts";
import { createInstance } from "../../../src/instance/setup.ts";

const STEPS: readonly RotationStep[] = ["made", "wrapped by both", "switched", "done"];

const secretOf = ({ keyringFile, masterKeyFile }: Instance) =>
  openKeyring(keyringFile, readFileSync(masterKeyFile)).secret;

test("a new master key opens the keyring, the old one no more, and the secret stays", () => {
  const instance = createInstance("/scratch/rotated");
  const before = { key: readFileSync(instance.masterKeyFile), secret: secretOf(instance) };
  expect(rotateMasterKey(instance)).toEqual({ resumed: false });
  expect(readFileSync(instance.masterKeyFile)).not.toEqual(before.key);
  expect(secretOf(instance)).toEqual(before.secret);
  expect(() => openKeyring(instance.keyringFile, before.key)).toThrow("is not opened by this master key");
  expect(createInstance("/scratch/rotated")).toEqual(instance);
  expect(existsSync(`${instance.masterKeyFile}.next`)).toBe(false);
});

test.each(STEPS)("stopped after %p it starts, and a second call ends it", (stop) => {
  const dir = `/scratch/stopped-${STEPS.indexOf(stop)}`;
  const instance = createInstance(dir);
  const secret = secretOf(instance);
  const old = readFileSync(instance.masterKeyFile);
  expect(() =>
    rotateMasterKey(instance, (step) => {
      if (step === stop) throw new Error("crash");
    }),
  ).toThrow("crash");
  expect(createInstance(dir)).toEqual(instance);
  expect(secretOf(instance)).toEqual(secret);
  expect(rotateMasterKey(instance).resumed).toBe(stop !== "done");
  expect(secretOf(instance)).toEqual(secret);
  expect(() => openKeyring(instance.keyringFile, old)).toThrow("is not opened");
});

test("there is one at a time", () => {
  const instance = createInstance("/scratch/twice");
  const steps: RotationStep[] = [];
  rotateMasterKey(instance, (step) => {
    steps.push(step);
    expect(() => rotateMasterKey(instance)).toThrow("being rotated already");
  });
  expect(steps).toEqual([...STEPS]);
  expect(rotateMasterKey(instance)).toEqual({ resumed: false });
});

test("an instance from before the keyring goes on with what its master key gave", () => {
  const instance = createInstance("/scratch/older");
  const key = readFileSync(instance.masterKeyFile);
  rmSync(instance.keyringFile);
  rmSync(instance.api.state, { recursive: true });
  writeFileSync(join(instance.api.dir, "cofferdam.db"), "");
  createInstance("/scratch/older");
  expect(secretOf(instance)).toEqual(key);
  rotateMasterKey(instance);
  expect(secretOf(instance)).toEqual(key);
});

test("a master key that is kept elsewhere is never written into the data directory", () => {
  const kept = new Uint8Array(32).fill(9);
  const instance = createInstance("/scratch/elsewhere", kept);
  expect(existsSync(instance.masterKeyFile)).toBe(false);
  const { secret } = openKeyring(instance.keyringFile, kept);
  expect(createInstance("/scratch/elsewhere", kept)).toEqual(instance);
  expect(createInstance("/scratch/elsewhere", "elsewhere")).toEqual(instance);
  expect(() => createInstance("/scratch/elsewhere")).toThrow("restore the key from a backup");
  expect(openKeyring(instance.keyringFile, kept).secret).toEqual(secret);
  expect(() => rotateMasterKey(instance)).toThrow("put the master key that is kept elsewhere into it");
});

test("a keyring that is damaged, missing or another's is told apart", () => {
  const instance = createInstance("/scratch/damaged");
  const key = readFileSync(instance.masterKeyFile);
  const text = readFileSync(instance.keyringFile, "utf8");
  writeFileSync(
    instance.keyringFile,
    text.replace(/"([A-Za-z0-9+/]{20})/, (_, head: string) => `"${head.slice(1)}A`),
  );
  expect(() => openKeyring(instance.keyringFile, key)).toThrow("is damaged");
  writeFileSync(instance.keyringFile, text.slice(0, 40));
  expect(() => openKeyring(instance.keyringFile, key)).toThrow("is damaged");
  writeFileSync(instance.keyringFile, text);
  expect(() => openKeyring(instance.keyringFile, new Uint8Array(32))).toThrow(
    "restore the two of them together",
  );
  expect(() => openKeyring(instance.keyringFile, key.subarray(1))).toThrow("has 31 bytes instead of 32");
  rmSync(instance.keyringFile);
  expect(() => openKeyring(instance.keyringFile, key)).toThrow("(ENOENT)");
});

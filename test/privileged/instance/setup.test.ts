import { beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  chownSync,
} from "node:fs";
import { join } from "node:path";
import { openInstance } from "../../../src/instance/instance.ts";
import { createInstance, ensureRunDirectories } from "../../../src/instance/setup.ts";
import { roleUser } from "../../../src/kernel/users.ts";
import { ensureUsers } from "../../fixtures/users.ts";

beforeAll(ensureUsers);

const look = (path: string) => {
  const { uid, gid, mode } = statSync(path);
  return { uid, gid, mode: mode & 0o7777 };
};

describe("createInstance", () => {
  test("makes the directories, the tag and the key, each for its owner", () => {
    const instance = createInstance("/scratch/deep/data");
    const api = roleUser("cofferdam");
    const gateway = roleUser("cofferdam-gw");
    expect(instance.data).toBe("/scratch/deep/data");
    expect(look(instance.data)).toEqual({ uid: 0, gid: 0, mode: 0o711 });
    expect(look(instance.masterKeyFile)).toEqual({ uid: 0, gid: 0, mode: 0o600 });
    expect(look(instance.keyringFile)).toEqual({ uid: 0, gid: api.gid, mode: 0o640 });
    expect(look(instance.api.dir)).toEqual({ ...api, mode: 0o700 });
    expect(look(instance.gateway.dir)).toEqual({ ...gateway, mode: 0o700 });
    expect(readFileSync(instance.masterKeyFile)).toHaveLength(32);
    expect(readdirSync(instance.data).toSorted()).toEqual([
      "api",
      "gateway",
      "inst",
      "keyring",
      "master.key",
    ]);
    expect(openInstance("/scratch/deep/data")).toEqual(instance);
  });

  test("a second time keeps tag and key", () => {
    const first = createInstance("/scratch/again");
    const key = readFileSync(first.masterKeyFile);
    expect(createInstance("/scratch/again")).toEqual(first);
    expect(readFileSync(first.masterKeyFile)).toEqual(key);
  });

  test("two directories are two instances with different keys", () => {
    const [a, b] = [createInstance("/scratch/one"), createInstance("/scratch/two")];
    expect(readFileSync(a.masterKeyFile)).not.toEqual(readFileSync(b.masterKeyFile));
  });

  test("finishes what a crash left, and takes a configuration that lies there", () => {
    mkdirSync("/scratch/half");
    writeFileSync("/scratch/half/config.toml", "");
    writeFileSync("/scratch/half/inst", "ab12");
    mkdirSync("/scratch/half/api", { mode: 0o700 });
    const instance = createInstance("/scratch/half");
    expect(instance.inst as string).toBe("ab12");
    expect(look(instance.api.dir).uid).toBe(roleUser("cofferdam").uid);
  });

  test("a directory with something else in it is left alone", () => {
    mkdirSync("/scratch/else");
    writeFileSync("/scratch/else/thesis.txt", "");
    expect(() => createInstance("/scratch/else")).toThrow("thesis.txt");
    expect(readdirSync("/scratch/else")).toEqual(["thesis.txt"]);
  });

  test("a lost master key is not silently replaced", () => {
    const instance = createInstance("/scratch/lost");
    writeFileSync(instance.api.database, "");
    rmSync(instance.masterKeyFile);
    expect(() => createInstance("/scratch/lost")).toThrow("restore the key from a backup");
  });

  test("a lost keyring is not silently replaced, be it by the master key or with it", () => {
    const instance = createInstance("/scratch/keyring");
    const key = readFileSync(instance.masterKeyFile);
    rmSync(instance.keyringFile);
    for (const given of [null, key, "elsewhere"] as const)
      expect(() => createInstance("/scratch/keyring", given)).toThrow("keyring is missing but there is data");
    rmSync(instance.masterKeyFile);
    expect(() => createInstance("/scratch/keyring")).toThrow("restore the key from a backup");
    expect(readdirSync(instance.data).toSorted()).toEqual(["api", "gateway", "inst"]);
  });

  test("a parent that others may write to is refused; a sticky one is fine", () => {
    mkdirSync("/scratch/open");
    chmodSync("/scratch/open", 0o777);
    expect(() => createInstance("/scratch/open/data")).toThrow("chmod go-w /scratch/open");
    chmodSync("/scratch/open", 0o1777);
    createInstance("/scratch/open/data");
    mkdirSync("/scratch/theirs");
    chownSync("/scratch/theirs", 1234, 1234);
    expect(() => createInstance("/scratch/theirs/data")).toThrow("/scratch/theirs");
  });

  test("a role directory of another owner is refused with the command that mends it", () => {
    const instance = createInstance("/scratch/owner");
    writeFileSync(join(instance.gateway.dir, "x"), "");
    chownSync(instance.gateway.dir, 0, 0);
    expect(() => createInstance("/scratch/owner")).toThrow(/chown \d+:\d+ \/scratch\/owner\/gateway/);
  });

  test("a link in place of a role directory is refused", () => {
    const instance = createInstance("/scratch/linked");
    rmSync(instance.api.dir, { recursive: true });
    symlinkSync("/etc", instance.api.dir);
    expect(() => createInstance("/scratch/linked")).toThrow("must be a directory");
    expect(look("/etc").uid).toBe(0);
  });
});

test("the run directories are the roles', again and again", () => {
  const instance = createInstance("/scratch/run");
  ensureRunDirectories(instance);
  ensureRunDirectories(instance);
  const api = roleUser("cofferdam");
  const gateway = roleUser("cofferdam-gw");
  const run = instance.sockets.dir;
  expect(look(run)).toEqual({ uid: 0, gid: 0, mode: 0o755 });
  expect(look(`${run}/api`)).toEqual({ ...api, mode: 0o755 });
  expect(look(`${run}/sandboxd`)).toEqual({ uid: 0, gid: api.gid, mode: 0o750 });
  expect(look(`${run}/gateway`)).toEqual({ uid: gateway.uid, gid: api.gid, mode: 0o750 });
  expect(look(`${run}/host`)).toEqual({ uid: 0, gid: 0, mode: 0o700 });
});

test("openInstance says how to make one", () => {
  mkdirSync("/scratch/none");
  expect(() => openInstance("/scratch/none")).toThrow("cofferdam serve --data /scratch/none");
  expect(() => openInstance("/scratch/absent")).toThrow("cofferdam serve --data /scratch/absent");
  writeFileSync("/scratch/none/inst", "../../etc");
  expect(() => openInstance("/scratch/none")).toThrow("four hexadecimal digits");
});

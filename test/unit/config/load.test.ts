import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig } from "../../../src/config/load.ts";

let dir: string;
let file: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "cofferdam-config-"));
  file = join(dir, "config.toml");
});
afterEach(() => rmSync(dir, { recursive: true }));

function load(text: string, env: Record<string, string> = {}) {
  writeFileSync(file, text);
  return loadConfig({ file, env });
}

function complaint(text: string, env: Record<string, string> = {}): string {
  try {
    load(text, env);
  } catch (error) {
    return (error as Error).message.replaceAll(file, "FILE");
  }
  return "accepted";
}

test("without anything, every key has a default, and what is loaded can't be changed", () => {
  const { config, origin } = loadConfig({ env: {} });
  expect(config.http.listen).toBe("127.0.0.1:8080");
  expect(config.exec.timeout_s).toBe(30);
  const keys = Object.entries(config).flatMap(([section, table]) =>
    Object.keys(table).map((key) => `${section}.${key}`),
  );
  expect([...origin.keys()].toSorted()).toEqual(keys.toSorted());
  expect(new Set(origin.values())).toEqual(new Set(["default"]));
  expect(() => Object.assign(config.http, { listen: "0.0.0.0:1" })).toThrow();
});

test("the command line goes before the environment, the environment before the file", () => {
  writeFileSync(file, '[http]\nlisten = "127.0.0.1:1"\nmax_upload_mb = 7\n[exec]\ntimeout_s = 9\n');
  const { config, origin } = loadConfig({
    file,
    env: { COFFERDAM_HTTP_LISTEN: "127.0.0.1:2", COFFERDAM_HTTP_MAX_UPLOAD_MB: "8", PATH: "/bin" },
    overrides: [{ key: "http.listen", value: "127.0.0.1:3", from: "--listen" }],
  });
  expect(config.http).toMatchObject({ listen: "127.0.0.1:3", max_upload_mb: 8 });
  expect(config.exec.timeout_s).toBe(9);
  expect(Object.fromEntries(origin)).toMatchObject({
    "http.listen": "--listen",
    "http.max_upload_mb": "COFFERDAM_HTTP_MAX_UPLOAD_MB",
    "exec.timeout_s": `${file}:5`,
    "exec.pool": "default",
  });
});

test("a copy is called by the name of what it was copied from", () => {
  writeFileSync(file, "[exec]\ntimeout_s = 9\n");
  const sources = { file, shownAs: "/srv/config.toml", env: {} };
  expect(loadConfig(sources).origin.get("exec.timeout_s")).toBe("/srv/config.toml:2");
  writeFileSync(file, "[exec]\ntimeout = 9\n");
  expect(() => loadConfig(sources)).toThrow(/^\/srv\/config\.toml:2: /);
});

describe("what is wrong is said with its place and what is allowed", () => {
  const cases: [string, string, string][] = [
    [
      "an unknown key",
      "[exec]\n\ntimeuot_s = 3\n",
      'FILE:3: [exec] has no key "timeuot_s"; its keys are timeout_s, ',
    ],
    [
      "an unknown section",
      "# x\n[exce]\npool = 1\n",
      "FILE:2: there is no section [exce]; the sections are [http], ",
    ],
    [
      "a network that nobody may allow",
      '[webhooks]\nallow_private = ["10.0.0.0/8", "127.0.0.0/8"]\n',
      'FILE:2: [webhooks] allow_private = "127.0.0.0/8": expected a network within 10.0.0.0/8, 100.64.0.0/10, ' +
        "172.16.0.0/12, 192.168.0.0/16, fc00::/7; public addresses need no leave, and loopback, link-local, metadata",
    ],
    [
      "a network that holds more than private ones",
      '[webhooks]\nallow_private = ["0.0.0.0/0"]\n',
      'FILE:2: [webhooks] allow_private = "0.0.0.0/0": expected a network within 10.0.0.0/8, ',
    ],
    [
      "a network with an address in it",
      '[webhooks]\nallow_private = ["10.1.2.3/8"]\n',
      'FILE:2: [webhooks] allow_private = "10.1.2.3/8": it has bits beyond its /8; that network is 10.0.0.0/8.',
    ],
    [
      "what is no network",
      '[webhooks]\nallow_private = ["10.0.0.1"]\n',
      'FILE:2: [webhooks] allow_private = "10.0.0.1": expected a network such as 10.1.0.0/16 or fd12:3456::/32.',
    ],
    [
      "no proxy's network",
      '[http]\nbehind_proxy = ""\n',
      'FILE:2: [http] behind_proxy = "": expected a CIDR such as "10.0.0.0/8" or "fd00::/8", or an address.',
    ],
    [
      "one that is none among proxies' networks",
      '[http]\nbehind_proxy = ["10.0.0.1", "x"]\n',
      'FILE:2: [http] behind_proxy = "x": expected a CIDR such as ',
    ],
    [
      "something else than networks",
      "[http]\nbehind_proxy = 8\n",
      "FILE:2: [http] behind_proxy = 8: expected a CIDR or a list of them.",
    ],
    [
      "a key outside of a section",
      "pool = 1\n",
      'FILE:1: "pool" stands outside of a section; put settings under ',
    ],
    ["too small", "[exec]\npool = 1\nmemory_mb = 1\n", "FILE:3: [exec] memory_mb = 1: the least is 64."],
    ["too big", "[http]\nmax_upload_mb = 101\n", "FILE:2: [http] max_upload_mb = 101: the most is 100."],
    ["a wrong type", '[exec]\npool = "two"\n', 'FILE:2: [exec] pool = "two": expected a number.'],
    ["a fraction", "[exec]\npool = 1.5\n", "FILE:2: [exec] pool = 1.5: expected a whole number."],
    ["a bad address", '[http]\nlisten = "8080"\n', 'FILE:2: [http] listen = "8080": expected HOST:PORT.'],
    ["an inline table", "exec = { pool = 99 }\n", "FILE:1: [exec] pool = 99: the most is 64."],
    ["a dotted key", "# c\nexec.pool = 99\n", "FILE:2: [exec] pool = 99: the most is 64."],
    ["no TOML", '[exec]\npool = \n[http]\nlisten = "a:1"\n', "FILE:2: not TOML: "],
    ["twice the same", "[exec]\npool = 1\npool = 2\n", "FILE:3: not TOML: "],
  ];
  for (const [name, text, expected] of cases) {
    test(name, () => expect(complaint(text)).toStartWith(expected));
  }

  test("a value in the environment", () => {
    expect(complaint("", { COFFERDAM_EXEC_POOL: "many" })).toBe(
      'COFFERDAM_EXEC_POOL: [exec] pool = "many": expected a number.',
    );
    expect(complaint("", { COFFERDAM_EXEC_DIRECTFS: "yes" })).toBe(
      'COFFERDAM_EXEC_DIRECTFS: [exec] directfs = "yes": expected a boolean.',
    );
  });

  test("a key in the environment; what names no section is not ours", () => {
    expect(complaint("", { COFFERDAM_EXEC_POLL: "1" })).toStartWith(
      'The environment\'s COFFERDAM_EXEC_POLL: [exec] has no key "poll"; its keys are timeout_s, ',
    );
    expect(complaint("", { COFFERDAM_DATA: "/srv", COFFERDAM_TEST_LONG: "1" })).toBe("accepted");
  });

  test("a file that is not there", () => {
    expect(() => loadConfig({ file: join(dir, "none.toml"), env: {} })).toThrow(/there is no such file/);
  });
});

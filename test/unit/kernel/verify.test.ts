import { expect, test } from "bun:test";
import { Capability } from "../../../src/kernel/capabilities.ts";
import { wrongIdentity, wrongMounts } from "../../../src/kernel/verify.ts";

const own = ["/data/api", "/run/cofferdam/ab12/api"];
const mount = (path: string, options: string) =>
  `36 35 98:0 / ${path} ${options} shared:1 - ext4 /dev/vda rw`;

test("a view of read-only mounts and own directories is right", () => {
  const lines = [
    mount("/", "ro,nosuid,nodev,noexec"),
    mount("/usr/lib", "ro,nosuid,relatime"),
    mount("/data/api", "rw,nosuid,nodev"),
    mount("/data/api/volumes", "rw,nosuid,nodev"),
  ];
  expect(wrongMounts(`${lines.join("\n")}\n`, own)).toEqual([]);
});

test.each([
  ["/etc", "rw,nosuid,nodev"],
  ["/usr", "ro,nodev"],
  ["/data/api", "rw,nodev"],
  ["/data/api", "rw,nosuid"],
  ["/data/api2", "rw,nosuid,nodev"],
  ["/data", "rw,nosuid,nodev"],
  ["/", "rw,nosuid,nodev"],
])("%s with %s is wrong", (path, options) => {
  expect(wrongMounts(mount(path, options), own)).toHaveLength(1);
});

test("octal escapes in a mount's path are its characters", () => {
  expect(wrongMounts(mount(String.raw`/my\040data`, "rw,nosuid,nodev"), ["/my data"])).toEqual([]);
});

const status = (change: Record<string, string> = {}) => {
  const caps = "000000000000000b";
  const fields = {
    Uid: "998\t998\t998\t998",
    Gid: "997\t997\t997\t997",
    Groups: " ",
    CapInh: caps,
    CapPrm: caps,
    CapEff: caps,
    CapBnd: caps,
    CapAmb: caps,
    NoNewPrivs: "1",
    ...change,
  };
  return Object.entries(fields)
    .map(([name, value]) => `${name}:\t${value}\n`)
    .join("");
};
const api = {
  user: "cofferdam",
  capabilities: [Capability.chown, Capability.dacOverride, Capability.fowner],
} as const;
const user = { uid: 998, gid: 997 };

test("the role's own identity is right", () => {
  expect(wrongIdentity(status(), api, user)).toEqual([]);
});

test.each([
  ["Uid", "998\t998\t0\t998"],
  ["Gid", "0\t0\t0\t0"],
  ["Groups", "0 "],
  ["CapEff", "000001ffffffffff"],
  ["CapEff", "0000000000000000"],
  ["CapBnd", "000000000000000f"],
  ["CapAmb", "0000000000000000"],
  ["NoNewPrivs", "0"],
])("%s being %j is wrong", (name, value) => {
  const [wrong, ...more] = wrongIdentity(status({ [name]: value }), api, user);
  expect(wrong).toStartWith(`${name} is `);
  expect(more).toEqual([]);
});

test("a field that the kernel does not tell is wrong", () => {
  expect(wrongIdentity("", api, user)).toHaveLength(9);
});

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import type { Instance } from "../../../src/instance/instance.ts";
import type { ConfinedRole } from "../../../src/kernel/confinement.ts";
import { landlockAbi } from "../../../src/kernel/landlock.ts";
import { roleUser, type RoleUserName } from "../../../src/kernel/users.ts";
import { createInstance, ensureRunDirectories, publishConfig } from "../../../src/instance/setup.ts";
import { runAs, type How } from "../../fixtures/role.ts";
import { ensureUsers } from "../../fixtures/users.ts";

const DATA = "/scratch/confine/data";
const VICTIM = "/scratch/victim";
const listeners: { stop(): void }[] = [];
const made: { instance?: Instance } = {};

beforeAll(() => {
  ensureUsers();
  const instance = (made.instance = createInstance(DATA));
  ensureRunDirectories(instance);
  publishConfig(instance, null);
  for (const path of [
    "/run/other.sock",
    "\0cofferdam-victim",
    instance.sockets.sandboxd,
    instance.sockets.sandboxes,
  ]) {
    listeners.push(Bun.listen({ unix: path, socket: { data() {} } }));
    // As open as can be, so that only the confinement stands before it.
    if (!path.startsWith("\0")) chmodSync(path, 0o666);
  }
});

afterAll(() => {
  for (const listener of listeners) listener.stop();
});

/** Files outside that are the role's own, in a directory where all may write: its identity would let it do anything. */
function prepareVictims(user: RoleUserName): void {
  rmSync(VICTIM, { recursive: true, force: true });
  mkdirSync(VICTIM);
  chmodSync(VICTIM, 0o777);
  const { uid, gid } = roleUser(user);
  for (const name of ["mine", "movable", "removable"]) {
    writeFileSync(`${VICTIM}/${name}`, "secret");
    chownSync(`${VICTIM}/${name}`, uid, gid);
  }
}

function outcomes(how: How, role: ConfinedRole): Record<string, string> {
  prepareVictims(role === "api" ? "cofferdam" : "cofferdam-gw");
  return runAs(how, role, DATA, "attack.ts") as Record<string, string>;
}

/** Attempt, what confinement answers, and who succeeds without it: the role's bare identity, or only root. */
type Row = [attempt: string, confined: string, control: "bare" | "root"];

const BOTH: Row[] = [
  ["read outside", "ENOENT", "bare"],
  ["read outside on another thread", "ENOENT", "bare"],
  ["write outside", "ENOENT", "bare"],
  ["truncate outside", "ENOENT", "bare"],
  ["create outside", "ENOENT", "bare"],
  ["mkdir outside", "ENOENT", "bare"],
  ["chmod outside", "ENOENT", "bare"],
  ["chmod outside on another thread", "ENOENT", "bare"],
  ["utimes outside", "ENOENT", "bare"],
  ["rename outside", "ENOENT", "bare"],
  ["unlink outside", "ENOENT", "bare"],
  ["stat outside", "ENOENT", "bare"],
  ["list outside", "ENOENT", "bare"],
  ["list /", "EACCES", "bare"],
  ["list /etc", "EACCES", "bare"],
  ["read by a link in its own directory", "ENOENT", "bare"],
  ["reach the root of another process", "ENOENT", "root"],
  ["see another process", "ENOENT", "bare"],
  ["see the kernel's settings", "ENOENT", "bare"],
  ["see the sandboxes", "ENOENT", "bare"],
  ["read the other role's directory", "ENOENT", "root"],
  ["read the master key", "ENOENT", "root"],
  ["write to a device", "EROFS", "bare"],
  ["start a program", "EPERM", "bare"],
  ["start itself", "EPERM", "bare"],
  ["become root", "EPERM", "root"],
  ["gain a capability", "EPERM", "root"],
  ["make a file system", "EPERM", "root"],
  ["copy a mount", "EPERM", "root"],
  ["leave the network namespace", "EPERM", "root"],
  ["make a device", "EPERM", "root"],
  ["signal another process", "EPERM", "root"],
  ["be traced", "EPERM", "bare"],
  ["talk netlink", "EAFNOSUPPORT", "bare"],
  ["talk packets", "EAFNOSUPPORT", "root"],
  ["connect to another service", "ENOENT", "bare"],
];

const API: Row[] = [
  ["chmod what it may read", "EROFS", "bare"],
  ["chown what it may read", "EPERM", "bare"],
  ["write what it may read", "EROFS", "bare"],
  ["chmod its own program", "EROFS", "bare"],
  ["chmod by an inherited descriptor", "EROFS", "bare"],
  ["leave a program of root's in its own directory", "EPERM", "bare"],
  ["give a file to root by its name", "EPERM", "bare"],
];

const GATEWAY: Row[] = [
  ["chmod what it may read", "EROFS", "root"],
  ["write what it may read", "EACCES", "root"],
  ["connect to sandboxd", "ENOENT", "root"],
  ["connect to the sandboxes' socket", "ENOENT", "bare"],
];

const MAY = [
  "write, rename and remove in its own directory",
  "make a FIFO in its own directory, and hear of writes to it",
  "read who it is",
];

describe.each([
  [
    "api",
    [...BOTH, ...API],
    [...MAY, "give a file to the tenant", "give a symlink to the tenant", "talk IPv4", "connect to sandboxd"],
  ],
  ["gateway", [...BOTH, ...GATEWAY], [...MAY, "talk IPv4"]],
] as const)("%s", (role, rows, may) => {
  const found: Record<How, Record<string, string>> = { confined: {}, bare: {}, root: {} };
  beforeAll(() => {
    for (const how of ["confined", "bare", "root"] as const) found[how] = outcomes(how, role);
  });

  test.each([...rows])("cannot: %s", (attempt, confined, control) => {
    expect(found.confined[attempt]).toBe(confined);
    // The same attempt does succeed where nothing confines it, so that it is not the probe that fails.
    expect(found[control][attempt]).toBe("done");
  });

  test("cannot: connect to an abstract socket, where the kernel's Landlock knows them", () => {
    const knows = (landlockAbi() ?? 0) >= 6;
    expect(found.confined["connect to an abstract socket"]).toBe(knows ? "EPERM" : "done");
    expect(found.bare["connect to an abstract socket"]).toBe("done");
  });

  test.each([...may])("can: %s", (attempt) => {
    expect(found.confined[attempt]).toBe("done");
  });

  test("cannot execute even by the bare system call", () => {
    expect(runAs("confined", role, DATA, "exec-attack.ts")).toBe("EPERM");
    expect(runAs("bare", role, DATA, "exec-attack.ts")).toBe("executed");
  });
});

test("an environment that claims that it is confined already is not believed", () => {
  const env = { COFFERDAM_CONFINING: "1" };
  for (const how of ["confined", "bare-then-confined"] as const) {
    const run = () => runAs(how, "api", DATA, "attack.ts", env);
    expect(run).toThrow(/api does not start.*(Uid is|Landlock is not in force)/);
  }
});

test("started by another user it says who has to start it", () => {
  expect(() => runAs("bare-then-confined", "api", DATA, "attack.ts")).toThrow("must be started as root");
});

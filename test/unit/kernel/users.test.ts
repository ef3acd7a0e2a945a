import { expect, test } from "bun:test";
import { localUser, roleUser } from "../../../src/kernel/users.ts";

const passwd = (line: string) =>
  `root:x:0:0:root:/root:/bin/bash\n${line}\nnobody:x:65534:65534::/:/bin/false\n`;

test("uid and gid by name", () => {
  expect(roleUser("cofferdam", passwd("cofferdam:x:998:997::/nonexistent:/usr/sbin/nologin"))).toEqual({
    uid: 998,
    gid: 997,
  });
});

test("a name that only starts alike is another user", () => {
  expect(() => roleUser("cofferdam", passwd("cofferdam-gw:x:998:997::/:/bin/false"))).toThrow(
    /missing.*useradd.* cofferdam$/,
  );
});

test.each([
  "cofferdam:x:0:0::/:/bin/false",
  "cofferdam:x:998:0::/:/bin/false",
  "cofferdam:x:10000:998::/:/bin/false",
  "cofferdam:x::998::/:",
  "cofferdam",
])("ids that are root's, the tenants' or none are refused: %s", (line) => {
  expect(() => roleUser("cofferdam", passwd(line))).toThrow("ids of its own");
});

test("who runs a command, with what sudo says where that can be a name", () => {
  const users = passwd("alice:x:1000:1000::/:/bin/sh");
  expect(localUser(undefined, 1000, users)).toBe("alice");
  expect(localUser("alice", 0, users)).toBe("root (sudo by alice)");
  expect(localUser(undefined, 1001, users)).toBe("uid 1001");
  for (const odd of ["", "a b", "a\r\nX-Other: 1", "é", "x".repeat(41)]) {
    expect(localUser(odd, 0, users)).toBe("root");
  }
});

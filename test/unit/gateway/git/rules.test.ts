import { describe, expect, test } from "bun:test";
import { branchOf, coversBranch } from "../../../../src/gateway/git/branches.ts";
import { nameOf, parseRoute } from "../../../../src/gateway/git/route.ts";
import { refusedOf } from "../../../../src/gateway/git/rules.ts";

const ZERO = "0".repeat(40);
const ONE = "1".repeat(40);
const TWO = "2".repeat(40);

describe("branches", () => {
  test.each([
    ["agent/*", "agent/x", true],
    ["agent/*", "agent/x/y", true],
    ["agent/*", "agent", false],
    ["agent/*", "agents/x", false],
    ["agent/*", "my/agent/x", false],
    ["*", "main", true],
    ["main", "main", true],
    ["main", "main2", false],
    ["a*c*e", "abcde", true],
    ["a*c*e", "abcdef", false],
    ["*-fix", "a-fix-fix", true],
    ["a.c", "abc", false],
    ["", "main", false],
  ])("%p covers %p: %p", (pattern, branch, covered) => {
    expect(coversBranch(pattern, branch)).toBe(covered);
  });

  test("a pattern of many stars takes no time", () => {
    expect(coversBranch(`${"a*".repeat(100)}b`, "a".repeat(1000))).toBe(false);
  });

  test.each(["agent/x", "a.b", "a-b_c+d", "feature#1", "a@b", "main"])("%p is a branch's name", (name) => {
    expect(branchOf(`refs/heads/${name}`)).toBe(name);
  });

  test.each([
    "agent/x\u00c2\u00a0y",
    "a b",
    "a\tb",
    "a\u007f",
    "a\rb",
    "é",
    "a..b",
    "a~1",
    "a^",
    "a:b",
    "a?",
    "a*",
    "a[b",
    "a\\b",
    "a//b",
    "/a",
    "a/",
    ".a",
    "a/.b",
    "a.",
    "a.lock",
    "a.lock/b",
    "a@{1}",
    "@",
    "-a",
    "HEAD",
    "",
  ])("%p is none", (name) => {
    expect(branchOf(`refs/heads/${name}`)).toBeNull();
  });
});

describe("what a run may push", () => {
  const repository = { name: "acme/app", access: "write", branches: ["agent/*"], update: false } as const;
  const isOwn = (ref: string) => ref === "refs/heads/agent/own";
  const reasons = (ref: string, [old, to]: readonly [string, string], over = {}) =>
    refusedOf(
      [{ ref, old, new: to }],
      { ...repository, ...over, branches: [...repository.branches] },
      isOwn,
    ).map(({ reason }) => reason);
  const create = [ZERO, ONE] as const;
  const move = [ONE, TWO] as const;
  const remove = [ONE, ZERO] as const;

  test.each<[string, readonly [string, string], object, string[]]>([
    ["refs/heads/agent/new", create, {}, []],
    ["refs/heads/agent/own", move, {}, []],
    ["refs/heads/agent/theirs", move, {}, ["update"]],
    ["refs/heads/agent/theirs", move, { update: true }, []],
    ["refs/heads/main", create, {}, ["branch"]],
    ["refs/heads/main", move, { update: true }, ["branch"]],
    ["refs/heads/agent/own", remove, {}, ["delete"]],
    ["refs/heads/agent/theirs", remove, { update: true }, ["delete"]],
    ["refs/heads/agent/new", [ZERO, ZERO], {}, ["delete"]],
    ["refs/tags/agent/x", create, {}, ["tag"]],
    ["refs/notes/commits", create, {}, ["ref"]],
    ["refs/headsagent/x", create, {}, ["ref"]],
    ["refs/heads/agent/../main", create, {}, ["branch"]],
  ])("%s", (ref, change, over, expected) => {
    expect<string[]>(reasons(ref, change, over)).toEqual(expected);
  });
});

describe("paths", () => {
  const at = (path: string, method = "GET") => parseRoute(method, `http://10.42.0.1:4180${path}`);

  test("are git's four", () => {
    const route = { host: "github.com", repository: "acme/app", service: "git-upload-pack" };
    expect(at("/git/github.com/Acme/App.git/info/refs?service=git-upload-pack")).toEqual({
      ...route,
      service: "git-upload-pack",
      advertisement: true,
    });
    expect(at("/git/GitHub.com:8443/acme/app/git-receive-pack", "POST")).toEqual({
      ...route,
      host: "github.com:8443",
      service: "git-receive-pack",
      advertisement: false,
    });
  });

  test.each([
    ["GET", "/git/github.com/acme/app.git/info/refs"],
    ["GET", "/git/github.com/acme/app.git/info/refs?service=git-upload-archive"],
    ["GET", "/git/github.com/acme/app.git/info/refs?service=git-upload-pack&service=git-receive-pack"],
    ["POST", "/git/github.com/acme/app.git/info/refs?service=git-upload-pack"],
    ["GET", "/git/github.com/acme/app.git/git-upload-pack"],
    ["POST", "/git/github.com/acme/app.git/git-upload-pack?x=1"],
    ["GET", "/git/github.com/acme/app.git/HEAD"],
    ["GET", "/git/github.com/acme/app.git/objects/info/packs"],
    ["POST", "/git/github.com/acme/app.git/info/lfs/objects/batch"],
    ["GET", "/git/github.com/acme/app/archive/main.zip"],
    ["GET", "/git/github.com/api/v3/user"],
    ["POST", "/git/github.com/acme/%61pp/git-upload-pack"],
    ["POST", "/git/github.com/acme/app%2f..%2fsecret/git-upload-pack"],
    ["POST", "/git/github.com/acme/../acme/secret/../git-upload-pack"],
    ["POST", "/git/github.com/acme/.../git-upload-pack"],
    ["POST", "/git/github.com/acme/.git/git-upload-pack"],
    ["POST", "/git/github.com/acme//git-upload-pack"],
    ["POST", "/git//acme/app/git-upload-pack"],
    ["POST", "/git/github.com/acme/app/x/git-upload-pack"],
    ["POST", "//git/github.com/acme/app/git-upload-pack"],
  ])("%s %s is not one", (method, path) => {
    expect(at(path, method)).toBeNull();
  });

  test("a repository has one name", () => {
    expect([nameOf("Acme/App.git"), nameOf("acme/app"), nameOf("acme/a/b"), nameOf("acme/..")]).toEqual([
      "acme/app",
      "acme/app",
      null,
      null,
    ]);
  });
});

import { describe, expect, test } from "bun:test";
import { AppError } from "../../../src/errors.ts";
import { parsePath, parseUrlPath } from "../../../src/volumes/path.ts";

function refusal(input: string, parse: (text: string) => unknown = parsePath): string | null {
  try {
    parse(input);
    return null;
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    expect(error.code).toBe("bad_input");
    return error.message;
  }
}

const SENTENCE = refusal("..") ?? "";

/** What a name may be made of: a mix that hits every rule of the parser. */
const ATOMS = [
  "a",
  "Z",
  "0",
  " ",
  "é",
  "漢",
  "🦀",
  "%",
  "%41",
  "%2e",
  "..a",
  "a..",
  "...",
  "~",
  "?",
  "#",
  "&",
  "+",
  ":",
  "-",
  "'",
  '"',
  "$",
  "*",
];

function pick<T>(from: readonly T[]): T {
  return from[Math.floor(Math.random() * from.length)]!;
}

function randomName(): string {
  for (;;) {
    const name = Array.from({ length: 1 + Math.floor(Math.random() * 6) }, () => pick(ATOMS)).join("");
    // A chance "%2e%2e" or "..": refused, and tested below.
    if (!/^(\.|%2e)+$/i.test(name) && name !== "workspace") return name;
  }
}

test("there is a sentence", () => {
  expect(SENTENCE).toContain("workspace/dir/file");
});

describe("every spelling of a path is the same file", () => {
  test("for random names", () => {
    for (let round = 0; round < 3000; round++) {
      const names = Array.from({ length: 1 + Math.floor(Math.random() * 5) }, randomName);
      const inner = names.join("/");
      const expected = { text: `workspace/${inner}`, inner, names, directory: false };
      for (const spelling of [
        inner,
        `workspace/${inner}`,
        `/workspace/${inner}`,
        `./${inner}`,
        `workspace/./${inner}`,
        `./workspace/${inner}`,
      ]) {
        expect(parsePath(spelling)).toEqual(expected);
      }
      expect(parsePath(names.join("/./"))).toEqual(expected);
      expect(parsePath(`${inner}/`)).toEqual({ ...expected, directory: true });
      expect(parsePath(`${inner}/.`)).toEqual({ ...expected, directory: true });
      // A path that an answer gave is that file again.
      expect(parsePath(parsePath(inner).text)).toEqual(expected);
      const encoded = names.map(encodeURIComponent).join("/");
      expect(parseUrlPath(encoded)).toEqual(expected);
      expect(parseUrlPath(`workspace/${encoded}`)).toEqual(expected);
      expect(parseUrlPath(encodeURIComponent(inner))).toEqual(expected);
    }
  });

  test("for the workspace itself", () => {
    for (const spelling of [
      "",
      ".",
      "./",
      "workspace",
      "workspace/",
      "/workspace",
      "/workspace/",
      "workspace/.",
    ]) {
      expect(parsePath(spelling)).toEqual({ text: "workspace", inner: "", names: [], directory: true });
    }
  });

  test("only one leading workspace/ is the prefix", () => {
    expect(parsePath("workspace/workspace/a").text).toBe("workspace/workspace/a");
    expect(parsePath("workspaces/a").text).toBe("workspace/workspaces/a");
  });

  test("a query and a stray percent sign belong to the name, since the SDK does not escape them", () => {
    expect(parseUrlPath("what?.txt").text).toBe("workspace/what?.txt");
    for (const name of ["%", "100%", "100% sure", "%zz", "%%41%"]) {
      expect(parseUrlPath(name).text).toBe(`workspace/${name.replace("%41", "A")}`);
    }
  });
});

describe("the same sentence refuses", () => {
  const climbing = [
    "..",
    "../a",
    "a/..",
    "a/../b",
    "workspace/..",
    "workspace/../../etc/passwd",
    "/workspace/../x",
    "..",
    "a/./../b",
    "%2e%2e/a",
    "%2E%2e/a",
    ".%2e/a",
    "a%2f..%2fb",
    "a/%2e%2e%2fb",
    "%252e%252e/a",
    "a%252f%252e.%252fb",
    "%25252e%25252e",
    "%%32%65%%32%65/a",
    "..%5ca",
    "a%5c..",
    "%255c..%255c",
    `%${"25".repeat(20)}2e`,
  ];
  const absolute = [
    "/",
    "/etc/passwd",
    "//workspace/a",
    "/workspacex",
    "workspace//etc",
    "/workspace//etc",
    "//",
    "///a",
    "a//b",
    "a//",
    "workspace//",
  ];
  const characters = [
    "a\0b",
    "\0",
    "a\nb",
    "a\tb",
    "\x7f",
    "a\u0085",
    "a\u009f",
    "a\\b",
    "\\",
    "..\\..\\a",
    "C:\\x",
    "\ud800",
    "a\udc00b",
  ];
  const long = ["n".repeat(256), "é".repeat(128), "a/".repeat(2043) + "b", `x/${"n".repeat(256)}/y`];

  for (const input of [...climbing, ...absolute, ...characters, ...long]) {
    test(JSON.stringify(input.length > 60 ? `${input.slice(0, 60)}…` : input), () => {
      expect(refusal(input)).toBe(SENTENCE);
    });
  }

  test("in URLs too, whether encoded once or more", () => {
    for (const input of [...climbing, ...absolute, ...long]) {
      expect(refusal(encodeURIComponent(input), parseUrlPath)).toBe(SENTENCE);
    }
    for (const input of [
      "%00",
      "a%0ab",
      "a%5cb",
      "%2e%2e%2fa",
      "%ff",
      "%c0%ae%c0%ae/a",
      "%ed%a0%80",
      "a?/../b",
    ]) {
      expect(refusal(input, parseUrlPath)).toBe(SENTENCE);
    }
  });

  test("whatever climbs, however it was made", () => {
    const dots = ["..", "%2e%2e", ".%2e", "%252e%252e", "%25%32%65."];
    const slashes = ["/", "%2f", "%5c", "%252F", "//"];
    for (let round = 0; round < 3000; round++) {
      const before = Math.random() < 0.3 ? "" : randomName() + pick(slashes);
      const after = Math.random() < 0.3 ? "" : pick(slashes) + randomName();
      expect(refusal(before + pick(dots) + after)).toBe(SENTENCE);
    }
  });
});

test("the longest name and path are taken, one byte more is not", () => {
  expect(parsePath("n".repeat(255)).names[0]).toHaveLength(255);
  const longest = `${"a/".repeat(2042)}bc`;
  expect(Buffer.byteLength(parsePath(longest).text)).toBe(4096);
  expect(parsePath(`/workspace/${longest}`).text).toBe(parsePath(longest).text);
  expect(refusal(`${longest}d`)).toBe(SENTENCE);
  expect(parsePath("a/b", 13).text).toBe("workspace/a/b");
  expect(refusal("a/bc", (text) => parsePath(text, 13))).toBe("A path may have at most 13 bytes here.");
});

test("a text far longer than any path is refused before it is looked at", () => {
  expect(parsePath(`${"./".repeat(4000)}a`).text).toBe("workspace/a");
  expect(refusal(`${"./".repeat(9000)}a`)).toBe(SENTENCE);
});

import { expect, test } from "bun:test";
import { tokensIn, toldVariables } from "../../../src/evidence/told.ts";

const TOKEN = `sk-ant-${"a1b2c3d4".repeat(8)}`;
const told = (environ: Record<string, string>, asked: string[] = []) =>
  Object.fromEntries(toldVariables(environ, asked).map((one) => [one.name, one]));

test("a token is shown by its beginning and a hash, wherever it stands", () => {
  const environ = {
    ANTHROPIC_API_KEY: TOKEN,
    HTTPS_PROXY: `http://run:${TOKEN}@10.42.0.1:4181`,
    GIT_CONFIG_VALUE_3: `Authorization: Bearer ${TOKEN}`,
  };
  const shown = told(environ);
  expect(JSON.stringify(shown)).not.toMatch(/[0-9a-f]{20}/);
  expect(shown["ANTHROPIC_API_KEY"]?.value).toMatch(/^sk-ant-a1b2c…\(sha256 [0-9a-f]{16}\)$/);
  expect(shown["HTTPS_PROXY"]?.value).toMatch(/^http:\/\/run:sk-ant-a1b2c….*@10\.42\.0\.1:4181$/);
  expect(Object.values(shown).map(({ credential }) => credential)).toEqual([false, false, false]);
  expect(tokensIn(environ)).toEqual([TOKEN]);
});

test("what a request has set is shown by a hash alone, whatever it is called", () => {
  const shown = told({ THEIRS: "hunter2", TERM: "hunter2" }, ["THEIRS", "TERM"]);
  expect(shown["THEIRS"]).toEqual({
    name: "THEIRS",
    of: "request",
    credential: false,
    value: "(7 bytes, sha256 f52fbd32b2b3b86f)",
  });
  expect(shown["TERM"]?.value).not.toContain("hunter2");
});

test("what looks like a credential is told of and not shown, also in a variable of the appliance's", () => {
  for (const secret of [`ghp_${"x".repeat(36)}`, "sk-proj-abc", `token=${"0f".repeat(16)}`, "eyJhbGciOi"]) {
    const { LANG } = told({ LANG: secret });
    expect([secret, LANG?.credential, LANG?.value.includes(secret)]).toEqual([secret, true, false]);
  }
  expect(told({ LANG: "C.UTF-8" })["LANG"]).toMatchObject({ credential: false, value: "C.UTF-8" });
});

test("a variable that nobody is known to have set is told apart", () => {
  const shown = told({ LD_PRELOAD: "/x.so", PATH: "/bin", AWS_PROFILE: "prod" });
  expect(Object.values(shown).map(({ of }) => of)).toEqual(["other", "appliance", "other"]);
  expect(shown["AWS_PROFILE"]?.value).not.toContain("prod");
});

import { expect, test } from "bun:test";
import { parseCredentials } from "../../../../src/blobs/s3/credentials.ts";

test("what aws configure writes is taken, and temporary ones with their token", () => {
  const pair = "aws_access_key_id = AKIA1\naws_secret_access_key=a/b+c=\n";
  const parsed = { accessKeyId: "AKIA1", secretAccessKey: "a/b+c=" };
  expect(parseCredentials(`[default]\n${pair}`, "f")).toEqual(parsed);
  expect(parseCredentials(`# mine\r\n\r\n; and\r\n${pair.replaceAll("\n", "\r\n")}`, "f")).toEqual(parsed);
  expect(parseCredentials(`${pair}aws_session_token = tok\n`, "f")).toEqual({
    ...parsed,
    sessionToken: "tok",
  });
});

test.each([
  ["", "f: it needs both aws_access_key_id and aws_secret_access_key"],
  ["aws_access_key_id = SECRETpart", "f: it needs both"],
  ["[work]\naws_access_key_id = SECRETpart", "f:1: only one profile may be there, [default]."],
  ["[default]\nSECRETpart", "f:2: expected NAME = VALUE with a name of aws_access_key_id, "],
  ["region = SECRETpart", "f:1: expected NAME = VALUE"],
  ["aws_secret_access_key = SECRET part", "f:1: expected NAME = VALUE"],
  ["aws_secret_access_key = SECRETpärt", "f:1: the value of aws_secret_access_key is not plain text."],
  ["toString = SECRETpart", "f:1: expected NAME = VALUE"],
])("%j is refused, with its line and nothing of what stands there", (text, sentence) => {
  const refused = expect(() => parseCredentials(text, "f"));
  refused.toThrow(sentence);
  refused.not.toThrow("SECRET");
});

import { expect, test } from "bun:test";
import { makeDeviceCode, makeUserCode, shownUserCode } from "../../src/signin/code.ts";
import { makeApiKey } from "../../src/keys/secret.ts";
import { secretsIn } from "../fixtures/secrets.ts";

// Every appliance that a test stops has its log looked through by this; here is that it finds what it looks for.
test("secrets in a log are found, and what only resembles them is not", () => {
  const line = (text: string) =>
    `${JSON.stringify({ time: "2026-01-01T00:00:00.000Z", message: "m", path: text })}\n`;
  const { apiKey, prefix } = makeApiKey("workspace");
  const admin = makeApiKey("admin");
  const whole = [
    apiKey,
    admin.apiKey,
    `/files/${apiKey}?x=1`,
    `Bearer ${admin.apiKey}`,
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    makeDeviceCode(),
    shownUserCode(makeUserCode()),
  ];
  for (const secret of whole)
    expect([secret, secretsIn(line("a") + line(secret)).length]).toEqual([secret, 1]);
  const harmless = [
    prefix,
    admin.prefix,
    `${prefix}[redacted]`,
    "whsec_[redacted]",
    "key-abcdefghijklmnop",
    "/$bunfs/root/a-file-whose-name-has-43-characters-in-i.js",
    admin.hash,
    "at lookUp (/home/me/cofferdam/src/keys/keys.ts:10:20)",
  ];
  for (const text of harmless) expect([text, secretsIn(line(text))]).toEqual([text, []]);
});

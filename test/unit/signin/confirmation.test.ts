import { expect, test } from "bun:test";
import { keyId } from "../../../src/ids.ts";
import { createSecrets } from "../../../src/secrets.ts";
import { makeUserCode } from "../../../src/signin/code.ts";
import { createConfirmations } from "../../../src/signin/confirmation.ts";

const STALE = /more than five minutes old/;
const shown = { keyId: keyId.make(), code: makeUserCode(), binding: "b".repeat(64) };
const secrets = createSecrets(new Uint8Array(32).fill(1));

test("it opens as it was sealed, for five minutes, and tells nothing to who carries it", () => {
  let at = Date.now();
  const confirmations = createConfirmations({ secrets, now: () => at });
  const sealed = confirmations.seal(shown);
  expect(sealed).toMatch(/^[A-Za-z0-9_-]+$/);
  for (const part of Object.values(shown)) {
    expect(Buffer.from(sealed, "base64url").includes(part)).toBe(false);
  }
  at += 5 * 60_000 - 1;
  expect(confirmations.open(sealed)).toMatchObject(shown);
  at += 1;
  expect(() => confirmations.open(sealed)).toThrow(STALE);
});

test("no other appliance's, none sealed for something else, and none that was changed", () => {
  const confirmations = createConfirmations({ secrets });
  const sealed = confirmations.seal(shown);
  const others = createConfirmations({ secrets: createSecrets(new Uint8Array(32).fill(2)) });
  expect(() => others.open(sealed)).toThrow(STALE);
  const elsewhere = secrets.seal(
    "webhook secret",
    Buffer.from(JSON.stringify({ ...shown, until: 1e15 })),
    "",
  );
  expect(() => confirmations.open(Buffer.from(elsewhere).toString("base64url"))).toThrow(STALE);
  const bytes = Buffer.from(sealed, "base64url");
  for (let at = 0; at < bytes.length; at++) {
    bytes[at]! ^= 1;
    expect(() => confirmations.open(bytes.toString("base64url"))).toThrow(STALE);
    bytes[at]! ^= 1;
  }
  expect(confirmations.open(bytes.toString("base64url"))).toMatchObject(shown);
});

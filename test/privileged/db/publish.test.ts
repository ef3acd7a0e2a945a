import { expect, test } from "bun:test";
import { chmodSync, existsSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { publishServer } from "../../../src/db/server/publish.ts";
import { serverCredentials } from "../../../src/db/server/published.ts";
import { createAuthority } from "../../fixtures/authority.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { ensureUsers } from "../../fixtures/users.ts";

test("a token and an authority are published for api alone; bad ones leave the good ones, and are said", () => {
  ensureUsers();
  using scratch = scratchDirectory();
  const published = join(scratch.path, "database.json");
  const [tokenFile, caFile] = [join(scratch.path, "token"), join(scratch.path, "ca.pem")];
  const { ca } = createAuthority();
  writeFileSync(tokenFile, "a.b.c\n", { mode: 0o600 });
  writeFileSync(caFile, ca);
  const publish = () => publishServer(published, { url: "https://db.test/", tokenFile, caFile });

  expect(publish()).toBeNull();
  expect(serverCredentials(published)).toEqual({ token: "a.b.c", ca });
  expect(statSync(published).mode & 0o777).toBe(0o640);
  expect(statSync(published).uid).toBe(0);

  const bad: [() => void, string][] = [
    [() => writeFileSync(tokenFile, "two\nlines\n"), "it holds no token"],
    [() => rmSync(tokenFile), "there is no such file"],
    [
      () => writeFileSync(tokenFile, "a.b.c", { mode: 0o644 }),
      "can be read by others; close it with: chmod 600",
    ],
    [
      () => {
        chmodSync(tokenFile, 0o600);
        writeFileSync(caFile, "no certificate");
      },
      "it holds no PEM certificate",
    ],
  ];
  for (const [spoil, sentence] of bad) {
    spoil();
    expect(publish()).toContain(sentence);
    // api goes on with what it has, and at a start says what is wrong.
    expect(() => serverCredentials(published)).toThrow(sentence);
  }
  writeFileSync(caFile, ca);
  expect(publish()).toBeNull();
  expect(serverCredentials(published).token).toBe("a.b.c");
  expect(publishServer(published, null)).toBeNull();
  expect(existsSync(published)).toBe(false);
});

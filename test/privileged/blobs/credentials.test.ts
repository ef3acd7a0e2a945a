import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { publishCredentials } from "../../../src/blobs/s3/publish.ts";
import { findCredentials } from "../../../src/blobs/s3/published.ts";
import { roleUser } from "../../../src/kernel/users.ts";
import { credentialsText } from "../../fixtures/s3-server.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { ensureUsers } from "../../fixtures/users.ts";

const scratch = scratchDirectory();
const file = join(scratch.path, "credentials");
const published = join(scratch.path, "s3.json");
beforeAll(ensureUsers);
afterAll(() => scratch[Symbol.dispose]());

const write = (text: string) => {
  writeFileSync(file, text);
  chmodSync(file, 0o600);
};
const find = (systemd: string | null = null) =>
  findCredentials({ published, systemd: () => (systemd === null ? null : Buffer.from(systemd)) });

test("root's file reaches api, for root and api's group alone", () => {
  write(credentialsText("one", "secret-one"));
  expect(publishCredentials(published, file)).toBeNull();
  expect(find()).toEqual({ accessKeyId: "one", secretAccessKey: "secret-one" });
  const { uid, gid, mode } = statSync(published);
  expect({ uid, gid, mode: mode & 0o777 }).toEqual({ uid: 0, gid: roleUser("cofferdam").gid, mode: 0o640 });
});

test("a file that is bad is told by its name, and nothing of what it held before is used", () => {
  write(credentialsText("one", "secret-one"));
  publishCredentials(published, file);
  write("aws_access_key_id = half-a-secret\n");
  const fault = publishCredentials(published, file) ?? "";
  expect(fault).toContain(`${file}: it needs both`);
  expect(readFileSync(published, "utf8")).not.toMatch(/half-a|secret-one/);
  expect(() => find()).toThrow(fault);
  write(credentialsText("one", "secret-one"));
  chmodSync(file, 0o644);
  expect(publishCredentials(published, file)).toBe(
    `${file} is open to everyone; close it with: chmod 600 ${file}`,
  );
  expect(publishCredentials(published, scratch.path)).toContain("is not a file");
  expect(publishCredentials(published, "/none")).toBe(
    '[storage] credentials_file = "/none": there is no such file.',
  );
});

test("systemd's are taken when there is no file, and without either it is said what to set", () => {
  publishCredentials(published, null);
  expect(find(credentialsText("two", "secret-two")).accessKeyId).toBe("two");
  expect(() => find("rubbish")).toThrow('the systemd credential "s3":1: expected NAME = VALUE');
  expect(() => find()).toThrow("A bucket takes credentials: set [storage] credentials_file");
  write(credentialsText("one", "secret-one"));
  publishCredentials(published, file);
  expect(find(credentialsText("two", "secret-two")).accessKeyId).toBe("one");
});

import { expect, test } from "bun:test";
import { databaseServerOf } from "../../../src/config/database.ts";
import { configSchema } from "../../../src/config/schema.ts";

const parse = (database: object) => databaseServerOf(configSchema.parse({ database }).database);
const token = { auth_token_file: "/etc/token" };

test("without a URL it is a file of this host", () => {
  expect(parse({})).toBeNull();
  expect(() => parse(token)).toThrow("[database] auth_token_file is set and url is not");
});

test("a server on loopback takes what it likes, one beyond it TLS and a token", () => {
  for (const [url, href] of [
    ["http://127.0.0.1:8081", "http://127.0.0.1:8081/"],
    ["http://[::1]:8081", "http://[::1]:8081/"],
    ["http://localhost:8081", "http://127.0.0.1:8081/"],
  ] as const) {
    expect(parse({ url })).toEqual({ url: href, tokenFile: null, caFile: null });
  }
  for (const url of ["https://db.example.com", "libsql://db.example.com", "https://10.0.0.5:8443/one"]) {
    expect(parse({ url, ...token })).toMatchObject({ tokenFile: "/etc/token" });
    expect(() => parse({ url })).toThrow("set auth_token_file");
  }
  for (const url of [
    "http://db.example.com",
    "http://10.0.0.5:8081",
    "http://127.0.0.1.example.com",
    "http://0.0.0.0:1",
  ]) {
    expect(() => parse({ url, ...token })).toThrow("in the clear beyond this host");
  }
});

test("what is no server's URL, or holds a secret, is refused without being shown", () => {
  for (const url of ["file:/x", "db.example.com", "ws://127.0.0.1:1", "https://h?tls=0", "https://h#x"]) {
    expect(() => parse({ url, ...token })).toThrow("must be https://HOST");
  }
  const withToken = () => parse({ url: "https://user:s3cret@db.example.com", ...token });
  expect(withToken).toThrow("put it in auth_token_file");
  expect(withToken).not.toThrow("s3cret");
});

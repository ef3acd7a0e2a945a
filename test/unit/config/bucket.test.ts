import { expect, test } from "bun:test";
import { bucketOf, credentialsFileOf } from "../../../src/config/bucket.ts";
import { configSchema } from "../../../src/config/schema.ts";

const storage = (given: Record<string, unknown>) => configSchema.parse({ storage: given }).storage;
const of = (given: Record<string, unknown>) => bucketOf(storage(given));
const s3 = (given: Record<string, unknown>) => of({ kind: "s3", bucket: "one", ...given });

test("the local disk is what there is without a word", () => {
  expect(of({})).toBeNull();
  expect(credentialsFileOf(storage({ credentials_file: "/f" }))).toBeNull();
});

test("a bucket of Amazon's, or of another server", () => {
  expect(s3({ region: "eu-central-1", sse: "AES256" })).toEqual({
    name: "one",
    endpoint: "https://s3.eu-central-1.amazonaws.com",
    region: "eu-central-1",
    prefix: "",
    pathStyle: true,
    sse: true,
  });
  expect(s3({ endpoint: "https://s3.example.com:9000/", prefix: "a/b", path_style: false })).toMatchObject({
    endpoint: "https://s3.example.com:9000",
    prefix: "a/b/",
    pathStyle: false,
    sse: false,
  });
  expect(credentialsFileOf(storage({ kind: "s3", credentials_file: "/f" }))).toBe("/f");
});

test.each(["127.0.0.1", "localhost", "[::1]", "10.1.2.3", "192.168.0.9", "[fd12::1]"])(
  "requests in the clear stay close: %s",
  (host) => {
    expect(s3({ endpoint: `http://${host}:9000` })).toMatchObject({ endpoint: `http://${host}:9000` });
  },
);

test.each([
  ...[
    "s3.example.com",
    "192.0.2.1",
    "8.8.8.8",
    "169.254.169.254",
    "[2001:4860::1]",
    "127.0.0.1.example.com",
    "0.0.0.0",
  ].map((host) => [{ endpoint: `http://${host}` }, "would send requests in the clear; use https:"] as const),
  ...[
    "ftp://s3.test",
    "s3.test",
    "https://s3.test/bucket",
    "https://s3.test?x",
    "https://user:pw@s3.test",
  ].map((endpoint) => [{ endpoint }, "must be https://HOST or https://HOST:PORT, and no more."] as const),
  [{ bucket: "" }, 'kind = "s3" needs bucket'],
  [{ kind: "local" }, 'bucket = "one" is set, but kind is "local"'],
  [{ bucket: "a.b", path_style: false }, "has a dot, which no certificate"],
  [{ endpoint: "https://10.0.0.1", path_style: false }, "is an address, which takes no bucket before it"],
] as const)("%j is refused", (given, sentence) => {
  expect(() => s3(given)).toThrow(sentence);
});

test.each([
  { bucket: "UPPER" },
  { bucket: "a/b" },
  { bucket: "a" },
  { prefix: "/a" },
  { prefix: "a/" },
  { prefix: "a//b" },
  { prefix: "../a" },
  { prefix: "a?b" },
  { region: "us east" },
  { sse: "aws:kms" },
  { credentials_file: "relative" },
  { kind: "gcs" },
])("%j is not taken", (given) => {
  expect(configSchema.safeParse({ storage: given }).success).toBeFalse();
});

import { afterAll, describe, expect, test } from "bun:test";
import { appendFileSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readPair } from "../../../src/tls/pair.ts";
import { makeCertificate } from "../../fixtures/certificate.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const scratch = scratchDirectory();
const dir = scratch.path;
afterAll(() => scratch[Symbol.dispose]());
const one = makeCertificate("one", { dir });
const two = makeCertificate("two", { dir });

test("a certificate and its key, as they are", async () => {
  expect(await readPair(one.files)).toEqual({ cert: one.cert, key: one.key });
  const chain = join(dir, "chain.pem");
  writeFileSync(chain, one.cert + two.cert);
  expect((await readPair({ ...one.files, cert: chain })).cert).toBe(one.cert + two.cert);
  const together = join(dir, "together.pem");
  writeFileSync(together, one.key + one.cert);
  expect(await readPair({ cert: together, key: together })).toMatchObject({ cert: one.key + one.cert });
});

describe("what is wrong is said with the file's name", () => {
  const file = (name: string, content: string | Uint8Array) => {
    writeFileSync(join(dir, name), content);
    return join(dir, name);
  };
  const broken = one.cert.replace(/^-----BEGIN CERTIFICATE-----\n.{40}/, "-----BEGIN CERTIFICATE-----\nAAAA");
  const locked = join(dir, "locked.key");
  Bun.spawnSync(["openssl", "genrsa", "-aes256", "-passout", "pass:x", "-out", locked, "2048"]);
  mkdirSync(join(dir, "directory"));

  test.each<[what: string, cert: string, key: string, says: string]>([
    [
      "no certificate",
      join(dir, "none.pem"),
      one.files.key,
      `[http] tls_cert = "${dir}/none.pem": there is no such file.`,
    ],
    [
      "no key",
      one.files.cert,
      join(dir, "none.key"),
      `[http] tls_key = "${dir}/none.key": there is no such file.`,
    ],
    ["a directory", join(dir, "directory"), one.files.key, `tls_cert = "${dir}/directory": it is no file.`],
    ["a device", "/dev/zero", one.files.key, 'tls_cert = "/dev/zero": it is no file.'],
    [
      "something else",
      file("text.pem", "hello"),
      one.files.key,
      `tls_cert = "${dir}/text.pem": it holds no PEM certificate.`,
    ],
    ["nothing", file("empty.pem", ""), one.files.key, "it holds no PEM certificate."],
    ["a broken one", file("broken.pem", broken), one.files.key, "it holds no PEM certificate."],
    ["the two swapped", one.files.key, one.files.cert, "it holds a key, so the two may be swapped."],
    [
      "a key that is none",
      one.files.cert,
      file("text.key", "hello"),
      `tls_key = "${dir}/text.key": it holds no PEM private key.`,
    ],
    ["a key with a passphrase", one.files.cert, locked, "a passphrase locks it; give a key without one."],
    [
      "another's key",
      one.files.cert,
      two.files.key,
      `tls_key = "${dir}/two.key": it is not the key of the certificate in ${dir}/one.pem.`,
    ],
    [
      "a broken chain",
      file("chain-broken.pem", one.cert + broken),
      one.files.key,
      `tls_cert = "${dir}/chain-broken.pem": it cannot be used (`,
    ],
    [
      "far too much",
      file("large.pem", new Uint8Array(1024 * 1024 + 1)),
      one.files.key,
      "it is larger than 1048576 bytes.",
    ],
  ])("%s", async (_what, cert, key, says) => {
    const error = await readPair({ cert, key }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      name: "AppError",
      code: "invalid",
      message: expect.stringContaining(says),
    });
  });
});

test("a key that comes a moment after its certificate is waited for", async () => {
  const files = { cert: join(dir, "renewed.pem"), key: join(dir, "renewed.key") };
  copyFileSync(two.files.cert, files.cert);
  copyFileSync(one.files.key, files.key);
  const reading = readPair(files);
  writeFileSync(files.key, "");
  appendFileSync(files.key, readFileSync(two.files.key));
  expect(await reading).toEqual({ cert: two.cert, key: two.key });
});

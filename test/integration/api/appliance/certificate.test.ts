import { afterAll, describe, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { certificateCheck, createCertificate } from "../../../../src/api/appliance/certificate.ts";
import type { Pair } from "../../../../src/tls/pair.ts";
import { X509Certificate } from "node:crypto";
import { makeCertificate } from "../../../fixtures/certificate.ts";
import { scratchDirectory } from "../../../fixtures/scratch.ts";

const scratch = scratchDirectory();
const dir = scratch.path;
afterAll(() => scratch[Symbol.dispose]());
const path = join(dir, "tls.json");
const one = makeCertificate("one", { dir, names: ["DNS:*.one.test", "IP:2001:db8::1"] });
const two = makeCertificate("two", { dir });
const silent = { info() {}, warn() {}, error() {} };

/** As root publishes it; that it does so is tested in test/privileged/tls. */
function publish(pair: Pair | null, fault: string | null = null): void {
  const pem = pair === null ? null : { cert: pair.cert, key: pair.key };
  writeFileSync(path, JSON.stringify({ files: one.files, pair: pem, fault }));
}

test("without a good pair there is none, and the sentence is the one that was published", () => {
  rmSync(path, { force: true });
  expect(() => createCertificate(path, silent)).toThrow(`The certificate is not in ${path}`);
  publish(null, '[http] tls_cert = "/x": there is no such file.');
  expect(() => createCertificate(path, silent)).toThrow('tls_cert = "/x": there is no such file.');
});

test("a start goes on with the pair before when the files have become bad since", () => {
  publish(one, "they are bad.");
  expect(createCertificate(path, silent).pair().cert).toBe(one.cert);
});

describe("refresh", () => {
  test("uses what is new once, and tells what is wrong", async () => {
    publish(one);
    const certificate = createCertificate(path, silent);
    const used: string[] = [];
    const use = async ({ cert }: Pair) => void used.push(cert);
    expect(await certificate.refresh(use)).toBeNull();
    expect(used).toEqual([]);
    publish(two);
    // The timer's and a reload's at once.
    expect(await Promise.all([certificate.refresh(use), certificate.refresh(use)])).toEqual([null, null]);
    expect(used).toEqual([two.cert]);
    expect(certificate.covers("x.one.test")).toBe(false);
    publish(two, "they are bad.");
    expect(await certificate.refresh(use)).toBe("they are bad.");
    expect(certificate.check("127.0.0.1")).toMatchObject({ status: "fail" });
    rmSync(path);
    await certificate.refresh(use);
    expect(used).toEqual([two.cert]);
  });

  test("what could not be used is tried again", async () => {
    publish(one);
    const certificate = createCertificate(path, silent);
    publish(two);
    const failing = () => Promise.reject(new Error("the port is gone"));
    expect(await certificate.refresh(failing).catch(String)).toContain("the port is gone");
    expect(certificate.pair().cert).toBe(one.cert);
    await certificate.refresh(async () => {});
    expect(certificate.pair().cert).toBe(two.cert);
  });
});

test("whom it is for", () => {
  publish(one);
  const { covers, names } = createCertificate(path, silent);
  expect(names()).toEqual(["localhost", "127.0.0.1", "*.one.test", "2001:DB8:0:0:0:0:0:1"]);
  for (const host of ["localhost", "LOCALHOST", "127.0.0.1", "a.one.test", "[2001:db8::1]"])
    expect([host, covers(host)]).toEqual([host, true]);
  for (const host of ["one", "one.test", "a.b.one.test", "evil.test", "127.0.0.2", "[::1]"])
    expect([host, covers(host)]).toEqual([host, false]);
});

describe("doctor's check", () => {
  const x509 = new X509Certificate(one.cert);
  const until = Date.parse(x509.validTo);
  const DAY = 24 * 3600 * 1000;
  const check = (change: Partial<Parameters<typeof certificateCheck>[0]>) =>
    certificateCheck({ x509, fault: null, hostname: "0.0.0.0", now: until - 20 * DAY, ...change });

  test.each([
    ["is well", {}, "ok", "20 days left"],
    ["has just enough left", { now: until - 14 * DAY }, "ok", "14 days left"],
    ["is about to end", { now: until - 14 * DAY + 1 }, "warn", "13 days left"],
    ["ends today", { now: until - 1 }, "warn", "0 days left"],
    ["has ended", { now: until }, "fail", "it expired on"],
    ["has not begun", { now: until - 40 * DAY }, "fail", "it is not valid before"],
    [
      "is not the one in the files",
      { fault: "They are bad." },
      "fail",
      "They are bad. The one before is in use",
    ],
    ["is for this name", { hostname: "a.one.test" }, "ok", "20 days left"],
    ["is for another name", { hostname: "a.two.test" }, "warn", "not for a.two.test, where the API listens"],
    ["is for this address", { hostname: "2001:db8::1" }, "ok", "20 days left"],
    ["is for another address", { hostname: "192.0.2.1" }, "warn", "not for 192.0.2.1"],
    ["is for whom it may be, on loopback", { hostname: "127.0.0.9" }, "ok", "20 days left"],
  ] as const)("it %s", (_what, change, status, detail) => {
    const found = check(change);
    expect(found).toMatchObject({ name: "certificate", status, detail: expect.stringContaining(detail) });
    expect(found.fix === null).toBe(status === "ok");
  });
});

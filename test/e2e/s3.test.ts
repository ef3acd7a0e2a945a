import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { createAuthority } from "../fixtures/authority.ts";
import { binary, startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { credentialsText, SECRET_KEY, startS3Server, type S3Server } from "../fixtures/s3-server.ts";
import { ensureUsers } from "../fixtures/users.ts";
import { until } from "../fixtures/until.ts";

/* The built program, confined as it is, with a bucket: it sees none of the operator's files, credentials included. */
setDefaultTimeout(60_000);

let server: S3Server;
let appliance: Appliance;
beforeAll(async () => {
  // As of another machine: by name, over TLS, the bucket in the host's name.
  const authority = createAuthority();
  appendFileSync("/etc/ssl/certs/ca-certificates.crt", `\n${authority.ca}`);
  appendFileSync("/etc/hosts", "\n127.0.0.1 s3.test test.s3.test\n");
  const pair = authority.issue("DNS:s3.test", "DNS:*.s3.test");
  server = await startS3Server({ secure: { domain: "s3.test", pair } });
  appliance = await startAppliance({ config: `${server.config({ prefix: "one" })}[exec]\npool = 0\n` });
});
afterAll(async () => {
  await appliance.stop();
  await server[Symbol.asyncDispose]();
});

const doctor = async (expect: number) =>
  (await appliance.cofferdam(["doctor"], { expect })).stdout
    .split("\n")
    .find((line) => line.includes(" store "));
const ready = async () =>
  (await (await fetch(`${appliance.keys.base_url}/readyz`)).json()) as { reasons?: string[] };

test("it starts, and doctor looks into the bucket", async () => {
  expect(await doctor(0)).toContain(
    `bucket test at ${server.endpoint} takes, gives back, and refuses what it should`,
  );
  expect((await ready()).reasons).toBeUndefined();
});

test("a bucket that is away is named by readyz and doctor, until it is back", async () => {
  await server.stop();
  await until(async () => (await ready()).reasons?.includes("store"), 30_000);
  expect(await doctor(1)).toContain("does not answer (ECONNREFUSED)");
  await server.start();
  await until(async () => (await ready()).reasons === undefined, 30_000);
});

test("new credentials are taken at a reload, wrong ones are not, and none are told to anyone", async () => {
  const hangUp = () => process.kill(appliance.pid("serve"), "SIGHUP");
  writeFileSync(server.credentialsFile, "aws_access_key_id = only-half\n");
  hangUp();
  await until(async () => (await appliance.log()).includes("it needs both aws_access_key_id"));
  expect(await doctor(0)).toContain("takes, gives back");
  writeFileSync(server.credentialsFile, credentialsText("nobody", "changed-secret-key"));
  hangUp();
  await until(async () => (await doctor(1).catch(() => ""))?.includes("nobody has this access key"));
  writeFileSync(server.credentialsFile, credentialsText("cofferdam-test", SECRET_KEY));
  hangUp();
  await until(async () => (await doctor(0).catch(() => ""))?.includes("takes, gives back"));
  const log = readFileSync(`${appliance.data}.log`, "utf8");
  expect([SECRET_KEY, "changed-secret-key", "only-half"].filter((secret) => log.includes(secret))).toEqual(
    [],
  );
});

test.each([
  ["a bucket that is not there", { bucket: '"none"' }, "there is no such bucket; make it"],
  [
    "no credentials",
    { credentials_file: '""' },
    "A bucket takes credentials: set [storage] credentials_file",
  ],
  ["another's certificate", { endpoint: "IP", path_style: "true" }, "(ERR_TLS_CERT_ALTNAME_INVALID)"],
])("with %s it does not start, and says what to do", async (_, changed, sentence) => {
  ensureUsers();
  const data = `${appliance.data}-${Object.keys(changed)[0]}`;
  const endpoint = `"https://127.0.0.1:${server.port}"`;
  const config = Object.entries({ path_style: "true", ...changed }).reduce(
    (text, [key, value]) =>
      text.replace(new RegExp(`^${key} = .*$`, "m"), `${key} = ${value === "IP" ? endpoint : value}`),
    server.config(),
  );
  writeFileSync(`${data}.toml`, config);
  const serve = Bun.spawn(
    [binary(), "serve", "--data", data, "--listen", "127.0.0.1:0", "--config", `${data}.toml`],
    {
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    },
  );
  const stderr = await serve.stderr.text();
  expect(stderr).toContain(sentence);
  expect(await serve.exited).not.toBe(0);
});

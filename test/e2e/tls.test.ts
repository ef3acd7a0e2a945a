import { afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect } from "node:tls";
import { argvOf, binary, type Keys } from "../fixtures/appliance.ts";
import { makeCertificate } from "../fixtures/certificate.ts";
import { ensureUsers } from "../fixtures/users.ts";
import { until } from "../fixtures/until.ts";

/* The built program beyond loopback: the machine's copy has addresses of its own for that, and all its ports. */
setDefaultTimeout(90_000);
/** A new certificate is taken within half a minute. */
const PATIENCE_MS = 60_000;
const dir = mkdtempSync("/scratch/tls-");
// As certbot keeps them: nobody but root may look.
const letsencrypt = join(dir, "letsencrypt");
mkdirSync(letsencrypt, { mode: 0o700 });
const files = { cert: join(letsencrypt, "fullchain.pem"), key: join(letsencrypt, "privkey.pem") };
const names = ["DNS:files.test", "IP:10.77.0.1"];
const one = makeCertificate("one", { dir, names });
const two = makeCertificate("two", { dir, names });
const TLS = `tls_cert = "${files.cert}"\ntls_key = "${files.key}"\n`;

const environment = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
const running: { stop(): Promise<number> }[] = [];
beforeAll(() => {
  ensureUsers();
  for (const address of ["10.77.0.1", "10.77.0.2"])
    Bun.spawnSync(["ip", "address", "add", `${address}/32`, "dev", "lo"]);
});
afterEach(async () => {
  for (const serve of running.splice(0)) await serve.stop();
});

async function run(command: string[]) {
  const child = Bun.spawn(command, { env: environment, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { stdout, stderr, code };
}

const state = { count: 0 };

/** `serve`, up to its line that it is ready. */
async function serve(http: string) {
  const data = join(dir, `data-${state.count++}`);
  const config = `${data}.toml`;
  writeFileSync(config, `[http]\n${http}[exec]\npool = 1\n`);
  const child = Bun.spawn(
    [binary(), "serve", "--data", data, "--config", config, "--keys-file", `${data}.json`],
    {
      env: environment,
      stdin: "ignore",
      stdout: Bun.file(`${data}.out`),
      stderr: Bun.file(`${data}.log`),
    },
  );
  running.push({
    stop: () => {
      child.kill("SIGTERM");
      return child.exited;
    },
  });
  const log = () => readFileSync(`${data}.log`, "utf8");
  const line = await until(async () => {
    if (child.exitCode !== null) throw new Error(log());
    const text = readFileSync(`${data}.out`, "utf8");
    return text === "" ? null : text;
  }, PATIENCE_MS);
  const keys = JSON.parse(readFileSync(`${data}.json`, "utf8")) as Keys;
  return { data, pid: child.pid, line, keys, log, doctor: () => run([binary(), "doctor", "--data", data]) };
}

/** The common name of the certificate that a new connection to port 443 meets; null when there is no connection. */
function nameNow(): Promise<string | null> {
  const { promise, resolve } = Promise.withResolvers<string | null>();
  const socket = connect({ host: "10.77.0.1", port: 443, rejectUnauthorized: false }, () => {
    resolve(String(socket.getPeerCertificate().subject.CN));
    socket.destroy();
  });
  socket.on("error", () => resolve(null));
  return promise;
}
const meets = (name: string) => until(async () => (await nameNow()) === name, PATIENCE_MS);

function place(cert: typeof one, key = cert): void {
  copyFileSync(cert.files.cert, files.cert);
  copyFileSync(key.files.key, files.key);
}

describe("in the clear beyond this host", () => {
  test("a start is refused and says what to set, and so does config check", async () => {
    const says =
      '[http] listen = "0.0.0.0:8080" would serve keys and files in the clear beyond this host; set ';
    const refused = await run([binary(), "serve", "--data", join(dir, "never"), "--listen", "0.0.0.0:8080"]);
    expect(refused.stderr.trim().split("\n").at(-1)).toStartWith(`cofferdam: ${says}`);
    expect(refused.code).toBe(2);
    const file = join(dir, "clear.toml");
    writeFileSync(file, '[http]\nlisten = "0.0.0.0:8080"\n');
    const checked = await run([binary(), "config", "check", file]);
    expect([checked.code, checked.stderr]).toEqual([2, expect.stringContaining(says)]);
  });
});

describe("TLS", () => {
  test("files that are no pair stop a start, by name", async () => {
    place(one, two);
    const file = join(dir, "bad.toml");
    writeFileSync(file, `[http]\nlisten = "0.0.0.0:443"\n${TLS}`);
    for (const command of [
      ["serve", "--data", join(dir, "never"), "--config", file],
      ["config", "check", file],
    ]) {
      const { code, stderr } = await run([binary(), ...command]);
      expect(stderr).toContain(
        `[http] tls_key = "${files.key}": it is not the key of the certificate in ${files.cert}.`,
      );
      expect(code).toBe(2);
    }
  });

  test("everywhere at 443, from files that only root may read, with a redirect at 80", async () => {
    place(one);
    const appliance = await serve(`listen = "0.0.0.0:443"\nredirect_listen = "0.0.0.0:80"\n${TLS}`);
    expect(appliance.keys.base_url).toBe("https://localhost");
    expect(appliance.line).toStartWith("Cofferdam is ready: https://localhost (");

    const curl = (...args: string[]) => run(["curl", "-s", "--cacert", one.files.cert, ...args]);
    const key = ["-H", `Authorization: Bearer ${appliance.keys.workspace_key}`, "-H", "X-Namespace: n"];
    const exec = ["--json", '{"command": "id -u"}', "https://10.77.0.1/v1/exec"];
    expect(JSON.parse((await curl(...key, ...exec)).stdout)).toMatchObject({ stdout: "10000\n" });
    expect((await curl("-L", "http://10.77.0.1/healthz")).stdout).toBe('{"status":"ok"}');
    const { stdout } = await curl("-w", "%{http_code}", ...key, "--json", "{}", "http://10.77.0.1/v1/exec");
    expect(stdout).toEndWith("403");
    expect(stdout).toContain("revoke the key");

    const { code, stdout: found } = await appliance.doctor();
    expect(found).toMatch(/^ok +certificate +for localhost, .*29 days left/m);
    expect(code).toBe(0);

    // Another certificate under the same names is taken without a command, and nobody notices.
    const state = { over: false, answered: 0, failed: [] as unknown[] };
    const ask = async (keepalive: boolean) => {
      while (!state.over) {
        const tls = { ca: `${one.cert}\n${two.cert}` };
        const answer = await fetch("https://10.77.0.1/healthz", { keepalive, tls }).catch(
          (error: unknown) => error,
        );
        if (answer instanceof Response && (await answer.text()) !== "") state.answered++;
        else state.failed.push(answer);
        await Bun.sleep(5);
      }
    };
    const asking = [ask(false), ask(true)];
    copyFileSync(two.files.cert, files.cert);
    await Bun.sleep(500);
    copyFileSync(two.files.key, files.key);
    await meets("two");
    await Bun.sleep(3_000);
    await until(() => state.answered > 100);
    state.over = true;
    await Promise.all(asking);
    expect(state.failed).toEqual([]);

    // One that does not fit is not taken, by a reload neither; an api that dies comes back with the one before.
    copyFileSync(one.files.key, files.key);
    process.kill(appliance.pid, "SIGHUP");
    await until(() => appliance.log().includes("the one before stays in force"), PATIENCE_MS);
    expect(await nameNow()).toBe("two");
    await until(async () => {
      const { code, stdout } = await appliance.doctor();
      return code === 1 && /^fail +certificate .*privkey\.pem.* The one before is in use/m.test(stdout);
    }, PATIENCE_MS);
    const pids = readFileSync(`/proc/${appliance.pid}/task/${appliance.pid}/children`, "utf8")
      .trim()
      .split(" ");
    const api = pids.find((pid) => argvOf(pid)[0] === "cofferdam: api");
    process.kill(Number(api), "SIGKILL");
    await meets("two");

    place(one);
    process.kill(appliance.pid, "SIGHUP");
    await meets("one");
    expect((await appliance.doctor()).code).toBe(0);
    expect(appliance.log()).not.toContain("PRIVATE KEY");
  });
});

describe("behind a proxy", () => {
  test("it is believed, others beyond this host are refused, and this host may call as before", async () => {
    const appliance = await serve('listen = "0.0.0.0:8080"\nbehind_proxy = "10.77.0.1"\n');
    expect(appliance.keys.base_url).toBe("http://127.0.0.1:8080");
    const from = async (address: string, to: string, ...headers: string[]) => {
      const all = [`Authorization: Bearer ${appliance.keys.admin_key}`, ...headers];
      const { stdout } = await run([
        ..."curl -s -w \n%{http_code} --interface".split(" "),
        address,
        "--json",
        '{"name": "k", "admin": false}',
        ...all.flatMap((header) => ["-H", header]),
        `http://${to}:8080/v1/workspaces/${appliance.keys.workspace_id}/keys`,
      ]);
      const [body = "", status] = stdout.split(/\n(?=\d+$)/);
      return { status: Number(status), body: JSON.parse(body) as Record<string, unknown> };
    };
    const lie = ["X-Forwarded-For: 198.51.100.9", "X-Forwarded-Proto: https"];
    expect((await from("10.77.0.1", "10.77.0.1", ...lie)).status).toBe(200);
    expect((await from("127.0.0.1", "127.0.0.1", ...lie)).status).toBe(200);
    const refused = await from("10.77.0.2", "10.77.0.2", ...lie);
    expect(refused.status).toBe(403);
    expect(refused.body).toEqual({ detail: expect.stringContaining("came in the clear: revoke the key") });

    const events = await run([binary(), "event", "export", "--data", appliance.data]);
    const created = events.stdout
      .split("\n")
      .filter((line) => line.includes('"key.created"') && line.includes('"k"'));
    expect(created.map((line) => /"source_address":"([^"]*)"/.exec(line)?.[1])).toEqual([
      "198.51.100.9",
      "127.0.0.1",
    ]);
  });
});

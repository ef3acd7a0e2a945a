import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import {
  changesSince,
  listing,
  makeRelease,
  ok,
  startHost,
  type Host,
  type Listing,
} from "../fixtures/host.ts";
import { makeCertificate } from "../fixtures/certificate.ts";
import { matches, steps } from "../fixtures/transcript.ts";

/* The life of an install on a host that systemd runs, from a release, without a network. In order. */
// An install copies and checks half a gigabyte, which takes its time on a busy machine.
setDefaultTimeout(240_000);
const docs = resolve(import.meta.dir, "../../docs");
const release = makeRelease();
let host: Host;
let pristine: Listing;
beforeAll(async () => {
  host = await startHost({ show: { "/opt/release": release.dir } });
  pristine = await listing(host);
});
afterAll(async () => {
  await host.stop();
  release.remove();
});

const INSTALL = "/opt/release/install.sh";
const SECOND = "--data /srv/second --listen 127.0.0.1:8081";

/** A command over HTTP with the key in a keys file. */
const exec = (keys: string, command: string): Promise<string> =>
  ok(
    host.sh(`python3 - <<'PY'
import json, ssl, sys, urllib.request
keys = json.load(open("${keys}"))
request = urllib.request.Request(keys["base_url"] + "/v1/exec", json.dumps({"command": ${JSON.stringify(command)}}).encode(),
    {"Authorization": "Bearer " + keys["workspace_key"], "X-Namespace": "alice", "Content-Type": "application/json"})
for attempt in range(50):
    try:
        sys.stdout.write(json.load(urllib.request.urlopen(request, timeout=60, context=ssl._create_unverified_context()))["stdout"])
        break
    except (urllib.error.URLError, ConnectionError) as error:
        if getattr(error, "code", 503) != 503 or attempt == 49: raise
        import time; time.sleep(0.2)
PY`),
  );

const roles = ["sandboxd", "gateway", "api"] as const;
const mainPid = (role: string): Promise<string> =>
  ok(host.sh(`systemctl show --property=MainPID --value cofferdam-${role}.service`));

test("the first install runs a command in gVisor and shows the keys once", async () => {
  const out = await ok(host.sh(`${INSTALL} --keys-file /root/keys.json`));
  expect(out).toMatch(/hello from Linux 4\.\S+ in gVisor, as uid 10000 in \/home\/agent/);
  expect(out).toContain(
    "files at rest are not encrypted by Cofferdam: use an encrypted disk, or --data-image",
  );
  const keys = JSON.parse(await ok(host.sh("cat /root/keys.json")));
  expect(Object.keys(keys)).toEqual(["base_url", "workspace_id", "admin_key", "workspace_key"]);
  expect(keys.base_url).toBe("http://127.0.0.1:8080");
  expect(out).toContain(keys.admin_key);
  expect(out).toContain(keys.workspace_key);
  expect(await ok(host.sh("stat -c '%a %U' /root/keys.json"))).toBe("600 root");
});

test("what runs in the api's unit reaches the network, but not a cloud's metadata", async () => {
  const metadata = "169.254.169.254";
  const beyond = "192.0.2.9";
  await ok(host.sh(`ip address add ${metadata}/32 dev lo; ip address add ${beyond}/32 dev lo`));
  const reach = (enter: string) =>
    ok(
      host.sh(`${enter} python3 - <<'PY'
import socket
for address in ("${metadata}", "${beyond}"):
    with socket.create_server((address, 0)) as server:
        try:
            socket.create_connection(server.getsockname(), 1).close()
            print(address, "reached")
        except TimeoutError:
            print(address, "silent")
PY`),
    );
  const cgroup = await ok(host.sh("systemctl show --property=ControlGroup --value cofferdam-api"));
  const procs = await ok(host.sh(`ls /sys/fs/cgroup{,/unified}${cgroup}/cgroup.procs 2>/dev/null || true`));
  expect(await reach("")).toBe(`${metadata} reached\n${beyond} reached`);
  expect(await reach(`echo 0 >${procs} &&`)).toBe(`${metadata} silent\n${beyond} reached`);
});

test("again: the keys hold, the data stay, no other keys are made, and the lines that it ends with work", async () => {
  await exec("/root/keys.json", "echo kept >workspace/note");
  const out = await ok(host.sh(`${INSTALL} --keys-file /root/other.json`));
  expect(out).toContain("there are keys already");
  expect(out).not.toMatch(/trove-sk-/);
  expect((await host.sh("test -e /root/other.json")).code).toBe(1);
  expect(await exec("/root/keys.json", "cat workspace/note")).toBe("kept");
  const line = (start: string) => out.split("\n").find((text) => text.startsWith(`  ${start} `)) ?? "";
  const key = (JSON.parse(await ok(host.sh("cat /root/keys.json"))) as { workspace_key: string })
    .workspace_key;
  expect(await ok(host.sh(line("curl").replace("$KEY", key)))).toContain('"exit_code":0');
  expect(await ok(host.sh(line("cofferdam")))).toContain("workspace");
});

test("directories are closed to all but their role", async () => {
  const modes = "stat -c '%n %a %U:%G' /var/lib/cofferdam /var/lib/cofferdam/{api,gateway,master.key} | sort";
  expect(await ok(host.sh(modes))).toBe(
    [
      "/var/lib/cofferdam 711 root:root",
      "/var/lib/cofferdam/api 700 cofferdam:cofferdam",
      "/var/lib/cofferdam/gateway 700 cofferdam-gw:cofferdam-gw",
      "/var/lib/cofferdam/master.key 600 root:root",
    ].join("\n"),
  );
});

for (const role of roles) {
  test(`kill -9 of ${role}: it comes back and commands run`, async () => {
    const before = await mainPid(role);
    await ok(
      host.sh(
        `kill -9 ${before}; until systemctl -q is-active cofferdam-${role}.service && [ "$(systemctl show -p MainPID --value cofferdam-${role}.service)" != ${before} ]; do sleep 0.1; done`,
      ),
    );
    expect(await exec("/root/keys.json", "cat workspace/note")).toBe("kept");
  });
}

const startRun = (command: string): Promise<string> =>
  ok(host.sh(`cofferdam run start alice --from empty -- '${command}'`));
const runOf = async (
  id: string,
): Promise<{ status: string; exit_code: number | null; error: string | null }> =>
  JSON.parse(
    await ok(
      host.sh(
        `for try in $(seq 300); do out=$(cofferdam run show ${id} --json 2>/dev/null) && case $out in *'"finished_at":null'*) ;; *) break ;; esac; sleep 0.2; done; printf %s "$out"`,
      ),
    ),
  );

test("a run prints on while each unit is restarted, and then killed", async () => {
  const id = await startRun("for n in $(seq 250); do echo $n; sleep 0.02; done; exit 9");
  for (const role of roles) await ok(host.sh(`systemctl restart cofferdam-${role}.service`));
  for (const role of roles) await ok(host.sh(`kill -9 ${await mainPid(role)}`));
  expect(await runOf(id)).toMatchObject({ status: "failed", exit_code: 9, error: null });
  const lines = Array.from({ length: 250 }, (_, n) => `${n + 1}`).join("\n");
  expect(await ok(host.sh(`cofferdam run logs ${id}`))).toBe(lines);
});

test("after a reboot and after a power cut it is back, with its keys and files", async () => {
  const lost = await startRun("echo begun; sleep 1000");
  await ok(host.sh(`until cofferdam run logs ${lost} | grep -q begun; do sleep 0.1; done`));
  await host.reboot();
  expect(await exec("/root/keys.json", "cat workspace/note")).toBe("kept");
  expect(await runOf(lost)).toMatchObject({ status: "error", exit_code: null, error: "host restarted" });
  await host.powercut();
  expect(await exec("/root/keys.json", "cat workspace/note")).toBe("kept");
});

test("the units are without fault and as tight as they were", async () => {
  const files = "/etc/systemd/system/cofferdam*.{service,target}";
  expect(await ok(host.sh(`systemd-analyze verify ${files}`))).toBe("");
  // What systemd-analyze gives for them, rounded up. Lower is tighter; a setting that is lost shows.
  const exposure: Record<(typeof roles)[number], number> = { api: 3.2, gateway: 3, sandboxd: 6.2 };
  for (const role of roles) {
    const out = await ok(
      host.sh(`systemd-analyze security --no-pager cofferdam-${role}.service | tail -n 1`),
    );
    expect(Number(/: ([\d.]+) /.exec(out)?.[1])).toBeLessThanOrEqual(exposure[role]);
  }
});

test("a reload takes a new configuration, and keeps the old one when the new one is wrong", async () => {
  const config = "/var/lib/cofferdam/config.toml";
  const timeout = () => ok(host.sh("cofferdam config show | grep 'exec.timeout_s '"));
  await ok(
    host.sh(`printf '[exec]\\ntimeout_s = 7\\n' >${config}; systemctl reload cofferdam-api; sleep 0.5`),
  );
  expect(await timeout()).toMatch(/timeout_s +7 /);
  await host.sh(`printf '[exec]\\ntimeout = 8\\n' >${config}; systemctl reload cofferdam-api; sleep 0.5`);
  expect(await timeout()).toMatch(/timeout_s +7 /);
  await ok(host.sh(`rm ${config}; systemctl reload cofferdam-api; sleep 0.5`));
  expect(await timeout()).toMatch(/timeout_s +30 /);
});

test("a journal that has stopped reading holds nothing up, and learns later what it missed", async () => {
  const before = await mainPid("api");
  await ok(host.sh("kill -STOP $(pidof systemd-journald)"));
  try {
    // Each is a line in the log, whatever the answer: more than the 16 MiB that its socket takes, and less than
    // the rate at which the journal itself would drop them.
    const answers = await ok(
      host.sh(`python3 - <<'PY'
import socket
connections = [socket.create_connection(("127.0.0.1", 8080), timeout=20) for _ in range(20)]
answers = 0
while answers < 95000:
    for connection in connections: connection.sendall(b"GET /v1/me HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    for connection in connections:
        answer = b""
        while not answer.endswith(b"}"):
            data = connection.recv(65536)
            if not data: raise EOFError
            answer += data
        answers += 1
print(answers)
PY`),
    );
    expect(answers).toBe("95000");
    expect(await exec("/root/keys.json", "echo goes on")).toBe("goes on");
  } finally {
    await ok(host.sh("kill -CONT $(pidof systemd-journald)"));
  }
  const told = `journalctl --quiet --unit cofferdam-api --output cat | grep 'log lines were lost'`;
  await ok(host.sh(`for try in $(seq 200); do ${told} && exit; sleep 0.1; done; exit 1`));
  expect(await mainPid("api")).toBe(before);
});

test("sandboxd's mounts are the host's own", async () => {
  const pid = await mainPid("sandboxd");
  expect(await ok(host.sh(`readlink /proc/${pid}/ns/mnt`))).toBe(
    await ok(host.sh("readlink /proc/1/ns/mnt")),
  );
});

test("the walls are tried by a unit of their own, and hold", async () => {
  expect(await ok(host.sh("systemctl is-active cofferdam-prove.timer"))).toBe("active");
  const unit = await host.sh("systemctl start cofferdam-prove.service");
  const said = await host.sh("journalctl --quiet --unit cofferdam-prove --output cat | grep -v ^PASS");
  expect([unit.code, said.out]).toEqual([0, expect.stringContaining(" 0 did not")]);
  expect(await ok(host.sh("cofferdam doctor | grep proof"))).toContain("the walls held");
});

test("doctor finds nothing wrong below the units' restrictions", async () => {
  expect(await ok(host.sh("cofferdam doctor"))).toContain("Nothing is wrong");
});

for (const name of readdirSync(docs).filter((file) => file.endsWith(".md"))) {
  for (const step of steps(`docs/${name}`, readFileSync(join(docs, name), "utf8"), "console systemd")) {
    test(`${step.file}:${step.line} ${step.command.split("\n")[0]}`, async () => {
      const out = await ok(host.sh(`cd /opt/release; ${step.command}`));
      expect(matches(step.output, out), `shown:\n${step.output}\nreal:\n${out}`).toBe(true);
    });
  }
}

test("a second instance runs beside it, and goes without a trace", async () => {
  const before = await listing(host);
  await ok(host.sh(`${INSTALL} ${SECOND} --keys-file /root/second.json`));
  expect(await ok(host.sh("cat /var/lib/cofferdam/inst"))).not.toBe(
    await ok(host.sh("cat /srv/second/inst")),
  );
  expect(await exec("/root/second.json", "ls workspace; echo second >workspace/note")).toBe("");
  expect(await exec("/root/keys.json", "cat workspace/note")).toBe("kept");
  await ok(host.sh(`${INSTALL} --uninstall --purge --data /srv/second; rm /root/second.json`));
  expect(await exec("/root/keys.json", "cat workspace/note")).toBe("kept");
  // Of the first instance, which ran on.
  const volatile =
    /^. (file \/run\/cofferdam\/|file \/var\/lib\/cofferdam\/|cgroup |mount \/run\/cofferdam|process )/;
  expect((await changesSince(host, before)).filter((line) => !volatile.test(line))).toEqual([]);
});

test("beyond this host with TLS: a renewed certificate is taken by a reload and without, a bad one is not", async () => {
  const before = await listing(host);
  const live = "/etc/letsencrypt/live/files.test";
  // As certbot keeps them: closed to all but root, and behind links.
  const place = (name: string, content: string) =>
    ok(host.sh(`cat >${live}/../${name} <<'PEM' && ln -sfn ../${name} ${live}/${name}\n${content}PEM`));
  const [one, two] = [makeCertificate("one"), makeCertificate("two")];
  await ok(host.sh(`mkdir -p ${live}; chmod 700 /etc/letsencrypt`));
  await place("fullchain.pem", one.cert);
  await place("privkey.pem", one.key);
  const install = `${INSTALL} --data /srv/tls --listen 0.0.0.0:443`;
  const refused = await host.sh(`${install} 2>&1`);
  expect([refused.code, refused.out]).toEqual([2, expect.stringContaining("give --tls-cert and --tls-key")]);
  const out = await ok(
    host.sh(
      `${install} --tls-cert ${live}/fullchain.pem --tls-key ${live}/privkey.pem --keys-file /root/tls.json`,
    ),
  );
  expect(out).toContain("Cofferdam runs: https://localhost");
  const tag = await ok(host.sh("cat /srv/tls/inst"));
  const api = `cofferdam-api@${tag}`;
  expect(await exec("/root/tls.json", "id -u")).toBe("10000");

  const meets = async ({ cert }: { cert: string }, seconds: number) => {
    for (let tries = 0; tries < seconds * 5; tries++) {
      const now = await ok(
        host.sh(`python3 -c 'import ssl; print(ssl.get_server_certificate(("127.0.0.1", 443)))'`),
      );
      if (now.trim() === cert.trim()) return;
      await Bun.sleep(200);
    }
    throw new Error(`not within ${seconds} s`);
  };
  await meets(one, 1);
  await place("fullchain.pem", two.cert);
  await place("privkey.pem", two.key);
  await ok(host.sh(`systemctl reload ${api}`));
  await meets(two, 10);
  await place("fullchain.pem", one.cert);
  await place("privkey.pem", one.key);
  await meets(one, 60);

  await place("privkey.pem", two.key);
  await host.sh(`systemctl reload ${api}`);
  const doctor = async () => (await host.sh("cofferdam doctor --data /srv/tls")).out;
  for (let tries = 0; !/^fail +certificate /m.test(await doctor()) && tries < 50; tries++)
    await Bun.sleep(200);
  expect(await doctor()).toMatch(/^fail +certificate .*privkey\.pem": it is not the key/m);
  expect(await ok(host.sh(`journalctl -q -u ${api} -o cat`))).toContain("the one before stays in force");
  await meets(one, 1);
  // An api that has to start meanwhile goes on with the pair before.
  await ok(host.sh(`systemctl restart ${api}`));
  await meets(one, 10);
  // Without one, as after a boot, it says what is wrong, once.
  await host.sh(`systemctl stop ${api}; rm /run/cofferdam/${tag}/config/tls.json; systemctl start ${api}`);
  expect((await host.sh(`systemctl show -p Result,NRestarts ${api}`)).out).toContain("NRestarts=0");
  expect(await ok(host.sh(`journalctl -q -u ${api} -n 20 -o cat`))).toContain(
    'privkey.pem": it is not the key',
  );

  await ok(host.sh(`${INSTALL} --uninstall --purge --data /srv/tls; rm -r /root/tls.json /etc/letsencrypt`));
  const volatile =
    /^. (file \/run\/cofferdam\/|file \/var\/lib\/cofferdam\/|cgroup |mount \/run\/cofferdam|process )/;
  expect((await changesSince(host, before)).filter((line) => !volatile.test(line))).toEqual([]);
});

test("an uninstall keeps the data, and an install finds them", async () => {
  await ok(host.sh(`${INSTALL} --uninstall`));
  expect(
    await ok(host.sh("ls /var/lib; getent passwd cofferdam || :; stat -c '%a %u' /var/lib/cofferdam")),
  ).toMatch(/^cofferdam$[^]*^700 0$/m);
  // Someone else gets the uids meanwhile.
  await ok(host.sh("useradd --system squatter1; useradd --system squatter2"));
  await ok(host.sh(INSTALL));
  await ok(host.sh("userdel squatter1; userdel squatter2"));
  expect(await exec("/root/keys.json", "cat workspace/note")).toBe("kept");
});

test("an uninstall with --purge leaves nothing", async () => {
  await ok(host.sh(`${INSTALL} --uninstall --purge; rm /root/keys.json`));
  expect(await changesSince(host, pristine)).toEqual([]);
});

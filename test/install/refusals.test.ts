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

/* What install.sh refuses, on a host that has nothing of it: each time the host is afterwards as it was before. */
// An install copies and checks half a gigabyte, which takes its time on a busy machine.
setDefaultTimeout(240_000);
const release = makeRelease();
let host: Host;
let pristine: Listing;
beforeAll(async () => {
  host = await startHost({ show: { "/opt/release": release.dir } });
  await ok(host.sh("mkdir /root/there; echo 'a = [' >/root/bad.toml; mkdir -p /srv/other/papers"));
  pristine = await listing(host);
});
afterAll(async () => {
  await host.stop();
  release.remove();
});

async function refused(script: string, code: number): Promise<string> {
  const ended = await host.sh(script);
  expect(ended).toMatchObject({ code });
  expect(await changesSince(host, pristine)).toEqual([]);
  return ended.out;
}

test.each([
  ["--bogus", "unknown argument '--bogus'"],
  ["extra", "unknown argument 'extra'"],
  ["--data", "--data wants a value"],
  ["--data '/srv/a b'", "--data: '/srv/a b' may have only letters, digits and . _ - in its names"],
  ["--data /", "--data: '/' may have only"],
  ["--prefix '/opt/x%y'", "--prefix: '/opt/x%y' may have only"],
  ["--data /root/bad.toml", "--data: /root/bad.toml is no directory"],
  [
    "--listen 0.0.0.0:8080",
    "--listen: 0.0.0.0:8080 would serve keys and files in the clear beyond this host; give --tls-cert",
  ],
  ["--listen 127.0.0.1", "--listen: '127.0.0.1' is not HOST:PORT, such as 127.0.0.1:8080"],
  ["--tls-cert /root/bad.toml", "--tls-cert and --tls-key go together"],
  [
    "--tls-cert /root/none.pem --tls-key /root/none.key",
    "--tls-cert: there is no file /root/none.pem to read",
  ],
  ["--listen 127.0.0.1:70000", "--listen: the port is one of 1 to 65535, not 70000"],
  ["--config /root/none.toml", "--config: there is no file /root/none.toml to read"],
  ["--runsc /root/none", "--runsc: there is no file /root/none to read"],
  ["--keys-file /root/none/keys.json", "--keys-file: there is no directory /root/none"],
  ["--keys-file /root/there", "--keys-file: /root/there is a directory"],
  ["--data-image 20", "--data-image: '20' is not a size such as 20G"],
  ["--data-image 500M", "--data-image: it takes 1G or more, not 500M"],
  ["--data-image 2G --uninstall", "--data-image goes with an install"],
  ["--purge", "--purge goes with --uninstall"],
])("%s", async (argument, why) => {
  const out = await refused(`/opt/release/install.sh ${argument}`, 2);
  expect(out.trim().split("\n")).toHaveLength(1);
  expect(out).toStartWith(`install.sh: ${why}`);
});

test("another user than root, without sudo and with it", async () => {
  const asNobody = "setpriv --reuid=nobody --clear-groups /opt/release/install.sh";
  expect(
    await refused(
      `mv /usr/bin/sudo /root/there/; ${asNobody}; s=$?; mv /root/there/sudo /usr/bin/; exit $s`,
      1,
    ),
  ).toBe("install.sh: it has to be run as root, and there is no sudo here\n");
  const allowed = "echo 'nobody ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/nobody";
  expect(
    await refused(`${allowed}; ${asNobody} --uninstall; s=$?; rm /etc/sudoers.d/nobody; exit $s`, 0),
  ).toContain("nothing is");
});

test("a directory that holds something else", async () => {
  const out = await refused("/opt/release/install.sh --data /srv/other", 1);
  expect(out).toContain("is not empty");
});

test("a port that something listens on, by name", async () => {
  const out = await refused(
    "python3 -m http.server --bind 127.0.0.1 8080 >/dev/null 2>&1 & p=$!; until (: </dev/tcp/127.0.0.1/8080) 2>/dev/null; do :; done; /opt/release/install.sh; s=$?; kill $p; exit $s",
    1,
  );
  expect(out).toMatch(
    /failed at: Checking this host\n {2}why: port 8080 is taken by process \d+: python3 -m http.server/,
  );
});

test("a user that has the tenants' uid", async () => {
  const out = await refused(
    "useradd --system --no-user-group --key SYS_UID_MAX=10000 --uid 10000 ten; /opt/release/install.sh; s=$?; userdel ten; exit $s",
    1,
  );
  expect(out).toContain("ten has the number 10000 in passwd, which the files of Cofferdam's tenants have");
});

test("a wrong configuration, with its line", async () => {
  const out = await refused("/opt/release/install.sh --config /root/bad.toml", 1);
  expect(out).toContain(
    "failed at: Configuration\n  why: the configuration is wrong: cofferdam: /root/bad.toml:2: not TOML",
  );
  expect(out).toContain("What this run had changed was undone");
});

test("a disk on which nothing could be written", async () => {
  const small = "mkdir /srv/small; mount -t tmpfs -o size=600m tmpfs /srv/small; ";
  const gone = "; s=$?; umount /srv/small; rmdir /srv/small; exit $s";
  expect(await refused(`${small} /opt/release/install.sh --data /srv/small/data ${gone}`, 1)).toMatch(
    /why: \/srv\/small\/data would have \d+ MB, and below 512 nothing is written\n/,
  );
});

test("a runsc that is none", async () => {
  const out = await refused("/opt/release/install.sh --runsc /bin/true", 1);
  expect(out).toContain("failed at: Checking the release\n  why: /usr/bin/true will not do: does not boot");
});

test("a release with a changed byte, in a small file or a large one", async () => {
  const out = await refused(
    `mkdir /tmp/r; cp -r /opt/release/* /tmp/r; cd /tmp/r/lib/cofferdam
    for file in manifest.json runsc; do
      cp $file /tmp/whole; echo >>$file; /tmp/r/install.sh; s=$?; cp /tmp/whole $file; [ $s = 1 ] || break
    done; rm -r /tmp/r /tmp/whole; exit $s`,
    1,
  );
  for (const name of ["manifest.json", "runsc"]) expect(out).toContain(`lib/cofferdam/${name}: FAILED`);
  expect(out).toContain("why: this release is not what its SHA256SUMS says");
});

test("an unknown system, and one too old", async () => {
  const elsewhere = (text: string) =>
    refused(
      `cp -P /etc/os-release /root/there/; rm /etc/os-release; printf '${text}' >/etc/os-release; /opt/release/install.sh; s=$?; rm /etc/os-release; mv /root/there/os-release /etc; exit $s`,
      1,
    );
  expect(await elsewhere("ID=fedora\\nVERSION_ID=43\\n")).toContain(
    "why: this is fedora 43\n  do:  Use Debian 12",
  );
  expect(await elsewhere('ID=ubuntu\\nVERSION_ID="22.04"\\n')).toContain("why: this is ubuntu 22.04\n");
  expect(await elsewhere("ID=debian\\nVERSION_ID=11\\n")).toContain("why: this is debian 11\n");
});

test("two at a time", async () => {
  const out = await refused("flock /var/lib /opt/release/install.sh", 1);
  expect(out).toContain("another install.sh is running here");
});

test("an uninstall of nothing", async () => {
  expect(await refused("/opt/release/install.sh --uninstall --purge", 0)).toContain("nothing is");
});

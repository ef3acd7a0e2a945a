import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import {
  changesSince,
  listing,
  makeRelease,
  ok,
  startHost,
  type Host,
  type Listing,
} from "../fixtures/host.ts";

/* A data directory in an image that can encrypt, through a kill, a reboot, an upgrade and to its end. In order. */
setDefaultTimeout(240_000);
const release = makeRelease();
let host: Host;
let pristine: Listing;
beforeAll(async () => {
  host = await startHost({ show: { "/opt/release": release.dir } });
  // A container has no loop devices of its own accord; these come back at its reboot.
  const nodes = ["c! /dev/loop-control 0600 root root - 10:237"];
  for (let n = 0; n < 32; n++) nodes.push(`b! /dev/loop${n} 0600 root root - 7:${n}`);
  await ok(
    host.sh(
      `printf '%s\\n' '${nodes.join("' '")}' >/etc/tmpfiles.d/loop.conf; systemd-tmpfiles --create --boot loop.conf; mkdir -p /srv/papers/mine`,
    ),
  );
  pristine = await listing(host);
});
afterAll(async () => {
  await host.stop();
  release.remove();
});

const INSTALL = "/opt/release/install.sh --data-image 1200M";
const IMAGE = "/var/lib/cofferdam.img";
const exec = (command: string) =>
  ok(
    host.sh(
      `for i in $(seq 30); do cofferdam exec alice -- '${command}' 2>&1 && exit; sleep 0.3; done | tail -n 1`,
    ),
  );

test("what it would hide, or can't be, is refused before anything is made", async () => {
  const cases = [
    [`${INSTALL} --data /srv/papers`, "/srv/papers is not empty, and --data-image would hide what it holds"],
    [
      `touch /srv/new.img; ${INSTALL} --data /srv/new; s=$?; rm /srv/new.img; exit $s`,
      "a file /srv/new.img already",
    ],
    ["/opt/release/install.sh --data-image 900T", "MB free, and the image takes 943718400"],
  ] as const;
  for (const [script, why] of cases) {
    const { code, out } = await host.sh(script);
    expect([code, out]).toEqual([1, expect.stringContaining(why)]);
    expect(await changesSince(host, pristine)).toEqual([]);
  }
});

test("a signal after the image is made takes it away again", async () => {
  const script = `${INSTALL} >/root/out 2>&1 & p=$!
    until grep -qF ' s] Program' /root/out; do kill -0 $p 2>/dev/null || break; sleep 0.02; done
    mountpoint -q /var/lib/cofferdam && echo it was mounted; kill -TERM $p; wait $p; rm /root/out`;
  expect((await host.sh(script)).out).toContain("it was mounted");
  expect(await changesSince(host, pristine)).toEqual([]);
});

test("a kill while it is made is put right by the next run, which encrypts what the host's own disk can't", async () => {
  await host.sh(`${INSTALL} >/root/out 2>&1 & p=$!
    until [ -e ${IMAGE}.new ]; do kill -0 $p 2>/dev/null || break; done; kill -KILL $p; wait $p; rm /root/out`);
  const out = await ok(host.sh(INSTALL));
  expect(out).toContain(`/var/lib/cofferdam is on ${IMAGE}`);
  expect(out).not.toContain("not encrypted");
  expect(await exec("echo planted-content | tee workspace/planted-name")).toBe("planted-content");
  expect(await ok(host.sh("cofferdam doctor"))).toMatch(/^ok +at rest +encrypted by the file system/m);
  expect(await ok(host.sh(`stat -c %a ${IMAGE}; ls ${IMAGE}*`))).toBe(`600\n${IMAGE}`);
});

test("a reboot mounts it before the services, and an upgrade keeps it", async () => {
  await host.reboot();
  expect(await exec("cat workspace/planted-name")).toBe("planted-content");
  // As it is when somebody has looked at the image elsewhere.
  await ok(host.sh("systemctl stop cofferdam.target var-lib-cofferdam.mount"));
  expect(await ok(host.sh("ls /var/lib/cofferdam"))).toBe("");
  await ok(host.sh("/opt/release/install.sh"));
  expect(await exec("cat workspace/planted-name")).toBe("planted-content");
});

test("a stopped appliance's image holds nothing that was planted", async () => {
  await ok(host.sh("systemctl stop cofferdam.target; sync"));
  // Once over all of it; the control is a name that is in the clear there.
  const texts = ["planted-content", "planted-name", "gateway"];
  const found = await ok(
    host.sh(
      `LC_ALL=C grep -azoF ${texts.map((text) => `-e ${text}`).join(" ")} ${IMAGE} | tr '\\0' '\\n' | sort -u`,
    ),
  );
  expect(found).toBe("gateway");
  await ok(host.sh("! ls /var/lib/cofferdam/api/state/cofferdam.db"));
});

test("the master key may come from a credential alone, as the documents say", async () => {
  const shown = await Bun.file(join(import.meta.dir, "../../docs/encryption.md")).text();
  const [, script = ""] = /```sh\n(systemd-creds.*?)```/s.exec(shown) ?? [];
  // This host has no TPM.
  await ok(host.sh(`systemd-creds setup; ${script.replace("--with-key=tpm2", "--with-key=host")}`));
  await ok(host.sh("! ls /var/lib/cofferdam/master.key; systemctl restart cofferdam.target"));
  expect(await exec("cat workspace/planted-name")).toBe("planted-content");
  await ok(
    host.sh("rm -r /etc/systemd/system/cofferdam-{api,gateway}.service.d /etc/cofferdam/master.key.cred"),
  );
});

test("an uninstall keeps it, an install finds it again, and a purge leaves nothing", async () => {
  await ok(host.sh("/opt/release/install.sh --uninstall"));
  expect(await ok(host.sh(`ls ${IMAGE} /var/lib/cofferdam/inst`))).toContain("/var/lib/cofferdam/inst");
  if (process.env.COFFERDAM_TEST_LONG !== undefined) {
    await ok(host.sh("/opt/release/install.sh"));
    expect(await exec("cat workspace/planted-name")).toBe("planted-content");
  }
  await ok(host.sh("/opt/release/install.sh --uninstall --purge"));
  expect(await changesSince(host, pristine)).toEqual([]);
});

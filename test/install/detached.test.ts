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

/* The life of an install where systemd does not run the machine: one detached `cofferdam serve`. In order. */
// An install copies and checks half a gigabyte, which takes its time on a busy machine.
setDefaultTimeout(240_000);
const release = makeRelease();
const install = "/opt/release/install.sh";
let host: Host;
let pristine: Listing;
beforeAll(async () => {
  host = await startHost({ bare: true, show: { "/opt/release": release.dir } });
  pristine = await listing(host);
});
afterAll(async () => {
  await host.stop();
  release.remove();
});

test("the first install starts it, says that it will not come back by itself, and shows the keys", async () => {
  const out = await ok(host.sh(`${install} --keys-file /root/keys.json`));
  expect(out).toMatch(/"cofferdam serve" runs detached, as process \d+/);
  expect(out).toContain("after a reboot it has to be started again");
  expect(out).toMatch(/hello from Linux 4\.\S+ in gVisor, as uid 10000/);
  expect(out).toContain("These keys are shown this once");
  expect(await ok(host.sh("stat -c %a /root/keys.json /var/lib/cofferdam/log"))).toBe("600\n700");
  await ok(host.sh(`cofferdam exec alice -- 'echo kept >workspace/note'`));
  const logged = 'grep --count \'"message":"request"\' /var/lib/cofferdam/log/serve.log';
  expect(Number(await ok(host.sh(logged)))).toBeGreaterThan(0);
});

test("again: one supervisor, the same keys, the data", async () => {
  const before = await ok(host.sh("cat /run/cofferdam/*/serve.pid"));
  const out = await ok(host.sh(install));
  expect(out).toContain("there are keys already");
  expect((await host.sh(`kill -0 ${before}`)).code).toBe(1);
  expect(await ok(host.sh("pgrep --count --full 'cofferdam serve'"))).toBe("1");
  expect(await ok(host.sh(`cofferdam exec alice -- 'cat workspace/note'`))).toBe("kept");
});

test("a second instance runs beside it, and goes", async () => {
  await ok(host.sh(`${install} --data /var/lib/second --listen 127.0.0.1:8081`));
  await ok(host.sh(`cofferdam exec --data /var/lib/second alice -- 'ls workspace'`));
  await ok(host.sh(`${install} --data /var/lib/second --uninstall --purge`));
  expect(await ok(host.sh(`cofferdam exec alice -- 'cat workspace/note'`))).toBe("kept");
});

test("data on a file system of their own are purged, and its root stays", async () => {
  await ok(host.sh("mkdir /srv/own; mount -t tmpfs -o size=2g tmpfs /srv/own"));
  await ok(host.sh(`${install} --data /srv/own --listen 127.0.0.1:8081`));
  const out = await ok(host.sh(`${install} --data /srv/own --uninstall --purge`));
  expect(out).toEndWith("Cofferdam was removed, with its data.");
  expect(await ok(host.sh("ls -A /srv/own; umount /srv/own; rmdir /srv/own"))).toBe("");
});

test("an uninstall with --purge leaves nothing", async () => {
  await ok(host.sh(`${install} --uninstall --purge; rm /root/keys.json`));
  expect(await changesSince(host, pristine)).toEqual([]);
});

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { generateX25519Identity, identityToRecipient } from "age-encryption";
import { changesSince, listing, makeRelease, ok, startHost, type Host } from "../fixtures/host.ts";

/* An appliance on one host is backed up, and another host becomes it. In order. */
// An install copies and checks half a gigabyte, which takes its time on a busy machine.
setDefaultTimeout(240_000);
const release = makeRelease();
const carried = mkdtempSync(join(tmpdir(), "cofferdam-carried-"));
const target = join(carried, "target");
let first: Host;
let second: Host;
let recipient: string;
beforeAll(async () => {
  mkdirSync(target);
  const identity = await generateX25519Identity();
  recipient = await identityToRecipient(identity);
  writeFileSync(join(carried, "identity"), `${identity}\n`);
  const show = { "/opt/release": release.dir };
  [first, second] = await Promise.all([
    startHost({ bare: true, show }),
    startHost({ show: { ...show, "/opt/carried": carried } }),
  ]);
});
afterAll(async () => {
  await Promise.all([first.stop(), second.stop()]);
  release.remove();
  rmSync(carried, { recursive: true });
});

/** A call over HTTP with the workspace's key of the first host. */
const call = (host: Host, path: string, body?: object): Promise<string> =>
  ok(
    host.sh(`python3 - <<'PY'
import json, sys, urllib.request
keys = json.load(open("/root/keys.json"))
body = ${body === undefined ? "None" : `json.dumps(${JSON.stringify(body)}).encode()`}
request = urllib.request.Request(keys["base_url"] + "${path}", body,
    {"Authorization": "Bearer " + keys["workspace_key"], "X-Namespace": "alice", "Content-Type": "application/json"})
sys.stdout.write(urllib.request.urlopen(request, timeout=60).read().decode())
PY`),
  );
const exec = async (host: Host, command: string): Promise<string> =>
  (JSON.parse(await call(host, "/v1/exec", { command })) as { stdout: string }).stdout;

const create = () => `cofferdam backup create --to /srv/target --recipient ${recipient}`;
const TREE = "cd workspace && find . -printf '%p %y %m %s %T@ %l\\n' | sort && md5sum */* note";

test("one host makes a backup; one that is killed in the middle leaves none", async () => {
  await ok(first.sh("/opt/release/install.sh --keys-file /root/keys.json"));
  await exec(
    first,
    "cd workspace; mkdir d; for n in $(seq 200); do echo $n >d/$n; done; ln -s d link; echo kept >note",
  );
  expect(await call(first, "/v1/snapshots", { label: "before" })).toContain("snap-");
  await ok(first.sh("cofferdam webhook create https://1.1.1.1/hook --events 'key.*'"));
  for (const wait of [0.3, 0.6]) await first.sh(`${create()} & sleep ${wait}; kill -9 $!; wait`);
  const made = await ok(first.sh(create()));
  expect(made).toContain("is in /srv/target. Namespaces: 2");
  expect(await ok(first.sh("cofferdam backup verify --from /srv/target --all"))).toMatch(
    /^backup-\S+ is whole/,
  );
  const tar = Buffer.from(await ok(first.sh("tar -C /srv/target -cz . | base64 -w0")), "base64");
  writeFileSync(join(carried, "target.tgz"), tar);
  expect(Bun.spawnSync(["tar", "-xzf", join(carried, "target.tgz"), "-C", target]).exitCode).toBe(0);
});

const RESTORE = "/opt/release/install.sh --restore /opt/carried/target --identity-file";

test("what does not open it leaves the other host as it was", async () => {
  const pristine = await listing(second);
  await ok(second.sh("head -c 40 /dev/urandom | base64 >/root/wrong"));
  const failed = await second.sh(`${RESTORE} /root/wrong`);
  expect(failed).toMatchObject({ code: 1, out: expect.stringContaining("none of age's") });
  await ok(second.sh("rm /root/wrong"));
  expect(await changesSince(second, pristine)).toEqual([]);
});

test("the other host becomes it, also when that is killed in the middle", async () => {
  const restore = `${RESTORE} /opt/carried/identity`;
  await second.sh(`${restore} >/root/out 2>&1 & p=$!
    until grep -qF ' s] Restoring' /root/out; do kill -0 $p || break; sleep 0.02; done
    kill -KILL $p; pkill -KILL -P $p; wait $p; sleep 0.5`);
  const out = await ok(second.sh(restore));
  expect(out).toMatch(
    /Restoring from \/opt\/carried\/target[^]*(is restored, as it was at|is complete|already)/,
  );
  expect(out).toMatch(/It is what backup-\S+ holds/);
  expect(out).not.toContain("trove-sk-");
  await ok(second.sh(`cat >/root/keys.json <<'KEYS'\n${await ok(first.sh("cat /root/keys.json"))}\nKEYS`));
  expect(await exec(second, TREE)).toBe(await exec(first, TREE));
  const snapshots = JSON.parse(await call(second, "/v1/snapshots")) as {
    snapshots: { snapshot_id: string }[];
  };
  const id = snapshots.snapshots[0]?.snapshot_id ?? "";
  await exec(second, "rm -r workspace/d");
  expect(await call(second, `/v1/snapshots/${id}/restore`, {})).toContain('"files_restored":');
  expect(await exec(second, "ls workspace/d | wc -l")).toBe("200\n");
  expect(await ok(second.sh("cofferdam webhook list"))).toContain("https://1.1.1.1/hook");
  expect(await ok(second.sh("cofferdam event verify"))).toContain("No event was changed, lost or added");
  expect(await ok(second.sh("cofferdam doctor"))).toContain("Nothing is wrong");
  const again = await ok(second.sh(`${restore} --no-start`));
  expect(again).toContain("nothing is restored over it");
  expect(again).toMatch(/is what backup-\S+ holds\. To start it/);
  // systemctl comes back before the services have ended.
  const direct = "cofferdam restore /opt/carried/target --identity-file /opt/carried/identity";
  const stopped = await second.sh(`systemctl stop cofferdam.target; ${direct}`);
  expect(stopped).toMatchObject({ code: 1, out: expect.stringContaining("is not empty") });
  await ok(second.sh("systemctl start cofferdam.target"));
});

test("its own backups are made when they are due", async () => {
  const state = (unit: string) => second.sh(`systemctl show --property=ActiveState,Result --value ${unit}`);
  expect((await state("cofferdam-backup.timer")).out).toContain("active");
  await ok(second.sh("systemctl start cofferdam-backup.service"));
  expect((await second.sh("ls /srv/own")).code).not.toBe(0);
  await ok(second.sh("printf '[backup]\\nto = \"/srv/own\"\\nkeep = 2\\n' >/var/lib/cofferdam/config.toml"));
  // A disk that is not mounted fails the unit, and does not become a directory on this one.
  expect((await second.sh("systemctl start cofferdam-backup.service")).code).not.toBe(0);
  expect((await second.sh("ls /srv/own")).code).not.toBe(0);
  await ok(second.sh("mkdir /srv/own && systemctl reset-failed cofferdam-backup.service"));
  // An appliance that was restored for a trial leaves the original's backups alone.
  await ok(second.sh("cd /var/lib/cofferdam && cp -p restored /root/restored && echo trial >>restored"));
  await ok(second.sh("systemctl start cofferdam-backup.service"));
  expect(await ok(second.sh("ls /srv/own"))).toBe("");
  await ok(second.sh("cp -p /root/restored /var/lib/cofferdam/restored"));
  for (const _ of [1, 2]) await ok(second.sh("systemctl start cofferdam-backup.service"));
  expect(await ok(second.sh("cofferdam backup list | grep -c '^backup-'"))).toBe("1");
  expect(await ok(second.sh("systemd-analyze verify /etc/systemd/system/cofferdam*"))).toBe("");
  const exposure = await ok(
    second.sh("systemd-analyze security --no-pager cofferdam-backup.service | tail -n 1"),
  );
  expect(Number(/: ([\d.]+) /.exec(exposure)?.[1])).toBeLessThanOrEqual(4);
});

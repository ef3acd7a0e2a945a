import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import {
  changesSince,
  listing,
  makeRelease,
  ok,
  sign,
  startHost,
  type Host,
  type Listing,
} from "../fixtures/host.ts";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/* Installs that end in the middle. A signal undoes all; a kill is put right by the next run; an upgrade never hurts. */
// An install copies and checks half a gigabyte, which takes its time on a busy machine.
setDefaultTimeout(240_000);
const release = makeRelease();
const newer = makeRelease();
const broken = makeRelease();
let host: Host;
let pristine: Listing;
beforeAll(async () => {
  change(newer.dir, "lib/cofferdam/manifest.json", (text) => text.replace("{", '{"note":"newer",'));
  // It passes every check before the start, and then does not start.
  change(
    broken.dir,
    "bin/cofferdam",
    () =>
      '#!/bin/bash\ncase $1 in version | prepare | config) exec /opt/release/bin/cofferdam "$@" ;; esac\necho "no start today" >&2\nexit 1\n',
  );
  host = await startHost({
    show: { "/opt/release": release.dir, "/opt/newer": newer.dir, "/opt/broken": broken.dir },
  });
  pristine = await listing(host);
});
afterAll(async () => {
  await host.stop();
  for (const made of [release, newer, broken]) made.remove();
});

/** Files of a release are links to the stage's: a changed one is another file. */
function change(dir: string, name: string, edit: (text: string) => string): void {
  const file = join(dir, name);
  const text = edit(readFileSync(file, "latin1"));
  rmSync(file);
  writeFileSync(file, text, { mode: 0o755 });
  sign(dir);
}

/** Runs an install and sends it a signal when it has printed a step's title. */
const interrupt = (install: string, title: string, signal: string) =>
  host.sh(`${install} >/root/out 2>&1 & p=$!
    until grep -qF ' s] ${title}' /root/out; do kill -0 $p 2>/dev/null || break; sleep 0.02; done
    kill -${signal} $p; wait $p; s=$?; cat /root/out; rm /root/out; exit $s`);

const versionInForce = () =>
  ok(host.sh("basename $(dirname $(dirname $(readlink -f /usr/local/bin/cofferdam)))"));
const answers = () =>
  ok(
    host.sh(
      "for i in $(seq 20); do cofferdam exec alice -- 'cat workspace/note' 2>&1 && exit; sleep 0.3; done | tail -n 1",
    ),
  );

const STEPS = [
  "Checking the release",
  "Users",
  "Data directory",
  "Configuration",
  "Program",
  "Services",
  "Starting",
  "Workspace and keys",
  "First command",
];
const long = process.env.COFFERDAM_TEST_LONG !== undefined;
const some = (...titles: string[]) => (long ? STEPS : titles);

for (const title of some("Program", "First command")) {
  test(`SIGTERM at "${title}" leaves the host as it was`, async () => {
    const { code, out } = await interrupt("/opt/release/install.sh", title, "TERM");
    expect({ code, out }).toMatchObject({ code: 143 });
    expect(out).toContain("why: interrupted by SIGTERM");
    expect(await changesSince(host, pristine)).toEqual([]);
  });
}

test("one whose role fails at first, and then starts, succeeds", async () => {
  // The last to be ready, so that nothing that is waited for gives it time.
  const unit = "/etc/systemd/system/cofferdam-api.service.d";
  const flaky = `ExecStartPre=+/bin/sh -c "test -e /run/tried || { touch /run/tried; exit 1; }"`;
  await ok(host.sh(`mkdir ${unit}; printf '%s\\n' '[Service]' '${flaky}' >${unit}/flaky.conf`));
  expect(await ok(host.sh("/opt/release/install.sh"))).toContain("Cofferdam runs");
  await ok(host.sh(`/opt/release/install.sh --uninstall --purge; rm -r ${unit} /run/tried`));
  expect(await changesSince(host, pristine)).toEqual([]);
});

test("one that does not start is undone, and says why", async () => {
  const { code, out } = await host.sh("/opt/broken/install.sh");
  expect({ code, out }).toMatchObject({ code: 1 });
  expect(out).toContain("failed at: Starting\n  why: cofferdam-sandboxd.service did not start");
  expect(out).toContain("no start today");
  expect(await changesSince(host, pristine)).toEqual([]);
});

for (const title of some("Checking the release", "Workspace and keys")) {
  test(`kill -9 at "${title}", and an uninstall leaves nothing`, async () => {
    await interrupt("/opt/release/install.sh", title, "KILL");
    await ok(host.sh("/opt/release/install.sh --uninstall --purge"));
    expect(await changesSince(host, pristine)).toEqual([]);
  });
}

test("kill -9 before the keys were shown: the next run shows some", async () => {
  await interrupt("/opt/release/install.sh", "First command", "KILL");
  expect(await ok(host.sh("/opt/release/install.sh"))).toContain("These keys are shown this once");
  await ok(host.sh("cofferdam exec alice -- 'echo kept >workspace/note'"));
});

for (const title of some("Program", "Starting")) {
  test(`an upgrade killed at "${title}" leaves it working, and is finished by another`, async () => {
    await interrupt("/opt/newer/install.sh", title, "KILL");
    expect(await answers()).toBe("kept");
    const before = await versionInForce();
    await ok(host.sh("/opt/newer/install.sh"));
    expect(await answers()).toBe("kept");
    if (title === "Checking the release") expect(await versionInForce()).not.toBe(before);
    await ok(host.sh("/opt/release/install.sh"));
  });
}

test("an upgrade that does not start goes back to the version before", async () => {
  const before = await versionInForce();
  const { code, out } = await host.sh("/opt/broken/install.sh");
  expect({ code, out }).toMatchObject({ code: 1 });
  expect(await versionInForce()).toBe(before);
  expect(await answers()).toBe("kept");
  expect(await ok(host.sh("ls /usr/local/lib/cofferdam"))).toBe(before);
});

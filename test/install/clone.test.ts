import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { changesSince, listing, ok, startHost, type Host, type Listing } from "../fixtures/host.ts";

/* install.sh in a clone, on a host that has nothing of what a build takes. */
// An install copies and checks half a gigabyte, which takes its time on a busy machine.
setDefaultTimeout(240_000);
const repo = resolve(import.meta.dir, "../..");
const slow = mkdtempSync("/var/tmp/cofferdam-clone-");
let host: Host;
let pristine: Listing;
beforeAll(async () => {
  for (const name of ["install.sh", "install", "systemd"])
    cpSync(join(repo, name), join(slow, name), { recursive: true });
  mkdirSync(join(slow, "build"));
  cpSync(join(repo, "build/cache.sh"), join(slow, "build/cache.sh"));
  // Stands for a compiler that takes its time, with children, and one of them deaf.
  writeFileSync(
    join(slow, "build/all"),
    "#!/bin/bash\necho compiling\n(trap '' TERM; sleep 1001) &\nsleep 1000 &\nwait\n",
    { mode: 0o755 },
  );
  host = await startHost({ show: { "/opt/clone": repo, "/opt/slow": slow } });
  pristine = await listing(host);
});
afterAll(async () => {
  await host.stop();
  rmSync(slow, { recursive: true });
});

/** What apt remembers of its own is not ours to undo. */
const changes = async () =>
  (await changesSince(host, pristine)).filter((line) => !/ \/var\/(cache|lib)\/apt\//.test(line));

test("without a network it says so at the step that needs one, and undoes all", async () => {
  const { code, out } = await host.sh("/opt/clone/install.sh");
  expect({ code, out }).toMatchObject({ code: 1 });
  expect(out).toMatch(/failed at: Building.*\n {2}why: .*is the network there\?\n/);
  expect(await changes()).toEqual([]);
});

for (const signal of ["INT", "TERM"] as const) {
  test(`SIG${signal} during a build ends it with all its processes`, async () => {
    // Python, since what a shell starts in the background ignores SIGINT.
    const { code, out } = await host.sh(`python3 - <<'PY'
import os, signal, subprocess, sys, time
install = subprocess.Popen(["/opt/slow/install.sh"], stdout=open("/root/out", "w"), stderr=subprocess.STDOUT)
while "compiling" not in open("/root/out").read() and install.poll() is None: time.sleep(0.05)
time.sleep(0.2)
install.send_signal(signal.SIG${signal})
status = install.wait()
print(open("/root/out").read())
os.remove("/root/out")
sys.exit(status)
PY`);
    expect({ code, out }).toMatchObject({ code: { INT: 130, TERM: 143 }[signal] });
    expect(out).toContain(`why: interrupted by SIG${signal}`);
    expect(out).toContain("What this run had changed was undone");
    expect((await host.sh("pgrep -x sleep")).out).toBe("");
    expect(await changes()).toEqual([]);
  });
}

/** Some minutes, the network, and a fresh host, as a newcomer has it. */
test.if(process.env.COFFERDAM_TEST_LONG !== undefined)(
  "with a network it builds everything and runs a command in gVisor",
  async () => {
    const online = await startHost({ net: true, show: { "/opt/clone": repo } });
    try {
      const out = await ok(online.sh("/opt/clone/install.sh --listen 127.0.0.1:18080"));
      expect(out).toMatch(/hello from Linux 4\.\S+ in gVisor, as uid 10000/);
    } finally {
      await online.stop();
    }
  },
  1_800_000,
);

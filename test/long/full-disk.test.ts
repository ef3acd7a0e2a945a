import { afterAll, expect, test } from "bun:test";
import { detail, startOnSmallDisk } from "../fixtures/small-appliance.ts";

/*
 * Tenants that fill the disk as fast as they can, in every way that does not look like a large file. About 40 s. What
 * they do without a floor is in test/e2e/quota.test.ts.
 */
const MIB = 1024 * 1024;
const FLOOR = 192 * MIB;
/** What can be written between two looks, and until all that runs is dead: docs/quotas.md. */
const OVERSHOOT = 128 * MIB;
const small = await startOnSmallDisk(500, 20_000, FLOOR / MIB);
afterAll(async () => small.stop());

const many = (body: string) => `for p in {1..8}; do (cd workspace; ${body}) & done; wait`;
const python = (body: string) => `cd workspace; python3 -c '
import os
for p in range(8):
    if os.fork() == 0:
${body.replaceAll(/^/gm, "        ")}
while True: os.wait()'`;

const ATTACKS = {
  bytes: many("while :; do head -c 20M /dev/zero > b$RANDOM$RANDOM; done"),
  "tiny files": many("mkdir t$p; i=0; while :; do echo x > t$p/$i; i=$((i + 1)); done"),
  "deep directories": python(`n = 0
while True:
    os.mkdir("d%d-%d" % (p, n)); os.chdir("d%d-%d" % (p, n)); n += 1
    open("f", "w").write("x")`),
  "deleted but open files": python(`held = []
while len(held) < 900:
    held.append(os.open("o%d" % p, os.O_RDWR | os.O_CREAT)); os.unlink("o%d" % p)
    os.write(held[-1], bytes(1 << 20))
while True: os.write(held[-1], bytes(1 << 20))`),
  "hard links": many(
    "mkdir h$p; echo x > h$p/f; i=0; while :; do ln h$p/f h$p/$i; head -c 1M /dev/zero >> h$p/f; i=$((i + 1)); done",
  ),
  "sparse files": many(
    "i=0; while :; do truncate -s 4G s$p-$i; head -c 4M /dev/zero | dd of=s$p-$i bs=1M seek=1000 conv=notrunc status=none; i=$((i + 1)); done",
  ),
};

for (const [name, command] of Object.entries(ATTACKS)) {
  test(`an attack by ${name} is stopped near the floor, and its neighbour is not`, async () => {
    let lowest = Infinity;
    let fewest = Infinity;
    const watching = setInterval(() => {
      lowest = Math.min(lowest, small.disk.freeBytes());
      fewest = Math.min(fewest, small.disk.freeFiles());
    }, 2);
    const neighbour = small.exec(
      "neighbour",
      "for i in {1..20}; do sleep 0.1; echo $i > workspace/mine; done; echo well",
    );
    const [status, body] = await small.exec("attacker", command);
    clearInterval(watching);
    console.log(`${name}: ${status}; ${Math.round(lowest / MIB)} MiB and ${fewest} inodes were left`);
    expect([status, body]).toEqual([507, detail("disk is nearly full")]);
    expect(lowest).toBeGreaterThan(FLOOR - OVERSHOOT);
    expect(fewest).toBeGreaterThan(0);
    expect(await neighbour).toMatchObject([200, { stdout: "well\n", exit_code: 0 }]);
    await small.removeNamespace("attacker");
  }, 60_000);
}

test("one by empty files that are deleted and held open ends, too, with all that runs", async () => {
  // What may be open at once is fewer than most disks have inodes.
  const few = await startOnSmallDisk(250, 6000);
  try {
    const command = python(`held = []
while True:
    try:
        held.append(os.open("o%d" % p, os.O_RDWR | os.O_CREAT)); os.unlink("o%d" % p)
    except OSError: pass`);
    expect(await few.exec("attacker", command)).toEqual([507, detail("disk is nearly full")]);
    expect(await few.exec("neighbour", "echo well")).toMatchObject([200, { stdout: "well\n" }]);
  } finally {
    await few.stop();
  }
}, 60_000);

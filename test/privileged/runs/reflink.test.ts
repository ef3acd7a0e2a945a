import { expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { statfs } from "../../../src/kernel/statfs.ts";
import { treeOnDisk } from "../../fixtures/tree.ts";
import { worktreeFixture } from "../../fixtures/worktrees.ts";

const MIB = 1024 * 1024;
/** Of xfsprogs, which not every host has. */
const MKFS = Bun.which("mkfs.xfs", { PATH: `${process.env["PATH"]}:/sbin:/usr/sbin` });

/** An xfs of its own in a throw-away copy of the machine; without reflinks for the comparison. */
function xfs(reflink: boolean) {
  const base = mkdtempSync("/scratch/xfs-");
  const [image, path] = [join(base, "image"), join(base, "mounted")];
  mkdirSync(path);
  run("truncate", "-s", "400M", image);
  run(MKFS ?? "", "-q", "-m", `reflink=${Number(reflink)}`, image);
  run("mount", "-o", "loop", image, path);
  return { path, [Symbol.dispose]: () => run("umount", "-l", path) };
}

function run(...command: string[]): void {
  const { success, stderr } = Bun.spawnSync(command, { stderr: "pipe" });
  if (!success) throw new Error(`${command.join(" ")}: ${stderr.toString()}`);
}

/** What a fork of 100 MiB takes of the disk. */
async function forkOn(path: string) {
  await using fixture = await worktreeFixture({ dir: path });
  const namespace = await fixture.namespace();
  for (let n = 0; n < 100; n++) {
    writeFileSync(join(namespace.live, `f${n}`), randomBytes(MIB));
  }
  await Bun.sleep(100);
  // The store has it by then.
  await fixture.fork(namespace);
  Bun.spawnSync(["sync", "-f", path]);
  const before = statfs(path).availableBytes;
  const begun = performance.now();
  const fork = await fixture.fork(namespace);
  const ms = Math.round(performance.now() - begun);
  Bun.spawnSync(["sync", "-f", path]);
  expect(treeOnDisk(fork.work)).toEqual(treeOnDisk(namespace.live));
  // They are the run's own all the same.
  writeFileSync(join(fork.work, "f0"), "of the run");
  expect((await fixture.worktrees.diff(fork.id)).changes.map(({ path: at }) => at)).toEqual(["f0"]);
  return { mib: Math.round((before - statfs(path).availableBytes) / MIB), ms };
}

test.skipIf(MKFS === null)(
  "a fork shares what the namespace's files hold where the file system can, and copies it where it can't",
  async () => {
    using shared = xfs(true);
    using copied = xfs(false);
    const [sharing, copying] = [await forkOn(shared.path), await forkOn(copied.path)];
    console.log(`a fork of 100 MiB: ${JSON.stringify({ sharing, copying })}`);
    expect(sharing.mib).toBeLessThan(10);
    expect(copying.mib).toBeGreaterThan(90);
  },
  120_000,
);

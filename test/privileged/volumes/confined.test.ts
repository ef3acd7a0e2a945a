import { beforeAll, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { namespaceId } from "../../../src/ids.ts";
import { roleUser } from "../../../src/kernel/users.ts";
import { createInstance, ensureRunDirectories, publishConfig } from "../../../src/instance/setup.ts";
import { runAs } from "../../fixtures/role.ts";
import { ensureUsers } from "../../fixtures/users.ts";

const DATA = "/scratch/confined-volumes";

beforeAll(() => {
  ensureUsers();
  const instance = createInstance(DATA);
  ensureRunDirectories(instance);
  publishConfig(instance, null);
  const { uid } = roleUser("cofferdam");
  const volume = join(instance.api.volumes, namespaceId.make());
  for (const dir of [instance.api.volumes, volume, join(volume, "tmp")])
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  // What a crash left, with a directory that only its owner may open.
  mkdirSync(join(volume, "tmp", "old", "closed"), { recursive: true });
  writeFileSync(join(volume, "tmp", "old", "closed", "f"), "");
  const script = `
    chown -R ${uid}:${uid} "$1/.." && mkdir "$1/live" && cd "$1/live"
    mkdir -p closed/inner sticky && echo -n under > closed/inner/file && echo -n x > sticky/f
    ln -s closed/inner/file linked && ln -s /home/agent/workspace/closed/inner/file absolute
    mkfifo fifo && mknod device c 1 3
    chown -hR 10000:10000 . ../tmp/old && chmod 000 closed/inner/file closed/inner closed ../tmp/old/closed && chmod 1777 sticky`;
  const made = Bun.spawnSync(["bash", "-euc", script, "make", volume]);
  if (!made.success) throw new Error(made.stderr.toString());
});

test("as the confined api, every file call works on what a tenant made hard to reach", () => {
  expect(runAs("confined", "api", DATA, "file-calls.ts")).toEqual({
    owner: 10_000,
    directoryOwner: 10_000,
    read: "one",
    closed: "over",
    linked: "over",
    absolute: "over",
    listed: [
      "closed",
      "closed/inner",
      "closed/inner/file",
      "new",
      "new/dir",
      "new/dir/file",
      "sticky",
      "sticky/f",
      "absolute",
      "device",
      "fifo",
      "linked",
    ].map((path) => `workspace/${path}`),
    usage: { bytes: expect.any(Number), files: 7, directories: 5 },
    swept: 1,
    left: [[], [], []],
  });
});

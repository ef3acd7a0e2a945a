import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  chownSync,
  linkSync,
  mkdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { foreseen } from "../../../../src/errors.ts";
import { roleUser } from "../../../../src/kernel/users.ts";
import { bindMount, MountAttr, moveMount, newFilesystem, umount } from "../../../../src/kernel/mounts.ts";
import { closeFd } from "../../../../src/kernel/openat2.ts";
import { FrameType } from "../../../../src/protocol/launch.ts";
import { PROOF_RUNS } from "../../../../src/protocol/proof.ts";
import type { StagedRun } from "../../../fixtures/run-stage.ts";
import { refusal } from "../stage.ts";
import { box } from "./stage.ts";

let at: Awaited<ReturnType<typeof box>>;
beforeAll(async () => {
  at = await box();
}, 300_000);
afterAll(async () => {
  expect(await at.end()).toEqual([]);
});

const inPlaceOf = (path: string, make: (path: string) => void) => {
  rmSync(path, { recursive: true });
  make(path);
};
const api = () => roleUser("cofferdam");
const giveTo = (path: string, { uid, gid }: { uid: number; gid: number }) => chownSync(path, uid, gid);

/** Each plants something where api may, for a run that was good before. */
const plants: Record<string, (run: StagedRun) => void> = {
  "out is a link to a file of root's": ({ paths }) =>
    inPlaceOf(paths.out, (path) => symlinkSync("/scratch/of-root", path)),
  "out is a link to another FIFO": ({ paths }) =>
    inPlaceOf(paths.out, (path) => symlinkSync(paths.err, path)),
  "out is a file of api's": ({ paths }) =>
    inPlaceOf(paths.out, (path) => {
      writeFileSync(path, "");
      giveTo(path, api());
    }),
  "out is a second name of a file of root's": ({ paths }) =>
    inPlaceOf(paths.out, (path) => {
      writeFileSync("/run/cofferdam/of-root", "");
      linkSync("/run/cofferdam/of-root", path);
    }),
  "err is a FIFO of root's": ({ paths }) => chownSync(paths.err, 0, 0),
  "err is a FIFO of a tenant's": ({ paths }) => chownSync(paths.err, 10_000, 10_000),
  "in is a directory": ({ paths }) =>
    inPlaceOf(paths.in, (path) => {
      mkdirSync(path);
      giveTo(path, api());
    }),
  "in is absent": ({ paths }) => unlinkSync(paths.in),
  "in is a device": ({ paths }) =>
    inPlaceOf(paths.in, (path) => {
      Bun.spawnSync(["mknod", path, "c", "1", "3"]);
      giveTo(path, api());
    }),
  "the FIFOs' directory is a link": ({ pipes }) => {
    renameSync(pipes, `${pipes}-real`);
    symlinkSync(`${pipes}-real`, pipes);
  },
  "the FIFOs' directory is another file system": ({ pipes }) => {
    mountTmpfs(pipes);
    for (const name of ["in", "out", "err"]) {
      Bun.spawnSync(["mkfifo", join(pipes, name)]);
      giveTo(join(pipes, name), api());
    }
  },
  "the worktree is a link to /etc": ({ work }) => inPlaceOf(work, (path) => symlinkSync("/etc", path)),
  "the worktree is a link to another's": ({ work }) =>
    inPlaceOf(work, (path) => symlinkSync(at.make().work, path)),
  "the run's directory is a link": ({ work }) => {
    renameSync(dirname(work), `${dirname(work)}-real`);
    symlinkSync(`${dirname(work)}-real`, dirname(work));
  },
  "the worktree is root's": ({ work }) => chownSync(work, 0, 0),
  "the worktree is api's": ({ work }) => giveTo(work, api()),
  "the worktree is a file": ({ work }) =>
    inPlaceOf(work, (path) => {
      writeFileSync(path, "");
      chownSync(path, 10_000, 10_000);
    }),
  "the worktree is absent": ({ work }) => inPlaceOf(work, () => {}),
  "the worktree is a bind mount of /etc": ({ work }) => bindMount("/etc", work),
  "the worktree is another file system": ({ work }) => mountTmpfs(work),
};

function mountTmpfs(path: string): void {
  const tree = newFilesystem("tmpfs", { mode: "755", uid: "10000", gid: "10000" }, MountAttr.noSuid);
  moveMount(tree, { path });
  closeFd(tree);
}

test("api can have nothing else opened as a run's FIFOs, nor mounted as its worktree", async () => {
  writeFileSync("/scratch/of-root", "");
  // The control: what is refused below is, until then, a run that boots.
  const good = await at.boot();
  for (const [name, plant] of Object.entries(plants)) {
    const run = at.make();
    plant(run);
    at.logged.length = 0;
    expect(await refusal(at.client.call("startRun", { run: run.id }))).toContain("could not be prepared");
    expect([name, at.logged.join("")]).toEqual([
      name,
      expect.stringMatching(/(FIFO|worktree).*can't be opened/),
    ]);
    expect([name, at.left().filter((line) => line.includes(run.id) && !line.includes("/data-"))]).toEqual([
      name,
      name === "the FIFOs' directory is another file system" ? [`mount ${run.pipes}`] : [],
    ]);
    for (const path of [run.pipes, run.work]) {
      try {
        umount(path, { detach: true });
      } catch {
        // Only some of the plants are mounts.
      }
    }
    run.close();
  }
  await at.client.call("stopRun", { run: good.id });
  await at.forget(good);
}, 60_000);

test("a worktree that is swapped while its run lives stays the one that was mounted", async () => {
  const run = await at.boot();
  renameSync(run.work, `${run.work}-was`);
  symlinkSync("/etc", run.work);
  await at.admit(run);
  run.sh("ls -A /work; echo mine >f; cat /work/passwd");
  await at.fate(run);
  expect(run.output()).toMatchObject({ out: "", err: expect.stringContaining("No such file") });
  expect(await Bun.file(join(`${run.work}-was`, "f")).text()).toBe("mine\n");
  await at.forget(run);
});

test("what api writes into the FIFO can do no more than end the run", async () => {
  const junk: [string, (run: StagedRun) => void][] = [
    ["a frame of no known kind", (run) => run.frame(0x7f)],
    ["a start without a launch", (run) => run.frame(FrameType.go)],
    ["a launch of another version", (run) => launchStrings(run, ["2", "/"])],
    ["a launch without numbers", (run) => launchStrings(run, ["1", "/", "x", "y", "z"])],
    ["more strings than there are", (run) => launchStrings(run, [...HEAD, "4000000", "sh"])],
    ["a launch that goes on", (run) => launchStrings(run, [...HEAD, "1", "sh", "0", "more"])],
    ["no command at all", (run) => launchStrings(run, [...HEAD, "0", "0"])],
  ];
  for (const [name, write] of junk) {
    const run = await at.boot();
    await at.admit(run);
    write(run);
    const fate = await at.fate(run);
    expect([name, fate.cause, fate.fault]).toEqual([name, "lost", expect.stringContaining("cofferdam: ")]);
    await at.forget(run);
  }
}, 120_000);

test("a sandbox that api never admits ends by itself, as one that is found after a restart does", async () => {
  const [never, admitted] = [await at.boot(), await at.boot()];
  await at.admit(admitted);
  // The control: a command runs without that, and nothing ends it before its time.
  for (const run of [never, admitted]) {
    run.sh("echo up; sleep 600");
    await run.saw("up");
  }
  await at.restart({ unadmittedMs: 1 });
  expect(await at.fate(never)).toMatchObject({ cause: "timeout" });
  expect(await at.client.call("inspectRun", { run: admitted.id })).toMatchObject({ state: "running" });
  const booted = await at.boot();
  expect(await at.fate(booted)).toMatchObject({ cause: "timeout" });
  expect(await refusal(at.admit(booted))).toContain("does not do");
  await at.restart();
  expect(await at.client.call("inspectRun", { run: admitted.id })).toMatchObject({ state: "running" });
  await at.client.call("stopRun", { run: admitted.id });
  for (const run of [never, admitted, booted]) await at.forget(run);
}, 60_000);

test("in a container that has an uptime of its own, no run waits longer to be admitted", async () => {
  writeFileSync("/scratch/uptime", "1.00 1.00\n");
  Bun.spawnSync(["mount", "--bind", "/scratch/uptime", "/proc/uptime"]);
  try {
    await at.restart({ unadmittedMs: 1 });
    const booted = await at.boot();
    expect(await at.fate(booted)).toMatchObject({ cause: "timeout" });
    await at.forget(booted);
  } finally {
    Bun.spawnSync(["umount", "/proc/uptime"]);
    await at.restart();
  }
}, 60_000);

test("api gets no more sandboxes booted than runs may live and spares wait, by the configuration as it is now", async () => {
  const ceiling = { live: 2, pool: 1 };
  const small = await box({
    runs: { ...ceiling, subnet: "10.43.0.0/16" },
    sandboxd: { ceiling: () => ceiling },
  });
  const most = ceiling.live + ceiling.pool + PROOF_RUNS;
  const runs = Array.from({ length: most + 2 }, () => small.make());
  const start = (run: StagedRun) => small.client.call("startRun", { run: run.id });
  const started = await Promise.all(
    runs.map((run) =>
      start(run).then(
        () => "booted",
        (error: unknown) => `${String(error)} ${foreseen(error)?.code}`,
      ),
    ),
  );
  const refused = started.filter((answer) => answer !== "booted");
  expect(refused).toHaveLength(2);
  for (const answer of refused)
    expect(answer).toMatch(/all that \[runs\] live and pool allow.* unavailable$/);
  const [ends, ...others] = runs.filter((_, at) => started[at] === "booted");
  const [next, later] = runs.filter((_, at) => started[at] !== "booted");
  if (ends === undefined || next === undefined || later === undefined) throw new Error("there are more");
  // One that has booted is asked for again, after a restart of api say.
  await start(ends);
  // Its fate is kept, but it lives no more.
  await small.client.call("stopRun", { run: ends.id });
  await start(next);
  expect(await refusal(start(later))).toContain("[runs] live");
  ceiling.live = 3;
  await start(later);
  for (const run of [...others, next, later]) await small.client.call("stopRun", { run: run.id });
  for (const run of runs) await small.forget(run);
  expect(await small.end()).toEqual([]);
}, 60_000);

/** Version, directory, stdin, processes, file size. */
const HEAD = ["1", "/", "0", "9", "9"];

function launchStrings(run: StagedRun, strings: readonly string[]): void {
  run.frame(FrameType.launch, Buffer.from(strings.map((text) => `${text}\0`).join("")));
  run.frame(FrameType.go);
}

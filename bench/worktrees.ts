import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { worktreeFixture } from "../test/fixtures/worktrees.ts";
import { interleaved, summary, type Summary } from "./stats.ts";

const FILES = 10_000;
/** Together 200 MiB. */
const FILE_BYTES = 20_971;
const CHANGED = FILES / 100;
/** A file that changed this long before comes from the namespace's own files. */
const SETTLED_MS = 2_100;

const pathOf = (root: string, file: number): string => join(root, `d${file % 100}`, `f${file}`);

function plant(root: string): void {
  for (let file = 0; file < FILES; file++) {
    if (file < 100) mkdirSync(join(root, `d${file}`), { recursive: true });
    writeFileSync(pathOf(root, file), Buffer.alloc(FILE_BYTES, `${file} `));
  }
}

function change(root: string, what: string): void {
  for (let file = 0; file < CHANGED; file++) {
    writeFileSync(pathOf(root, file * 100), `${what} ${file}\n`.repeat(500));
  }
}

async function plain(...command: string[]): Promise<void> {
  const { exited } = Bun.spawn(command, { stdout: "ignore", stderr: "inherit" });
  await exited;
}

/** Forks of 10,000 files and 200 MiB, what has changed in them, and merges, beside what one would use instead. */
export async function worktrees(work: string, rounds: number): Promise<Summary[]> {
  const dir = join(work, "worktrees");
  mkdirSync(dir);
  await using fixture = await worktreeFixture({ dir });
  const namespace = await fixture.namespace();
  const copied = join(dir, "copied");
  plant(namespace.live);
  await Bun.sleep(SETTLED_MS);
  const kept = await fixture.fork(namespace);
  change(kept.work, "changed");
  let made: Awaited<ReturnType<typeof fixture.fork>> | null = null;
  const rows = await interleaved(
    {
      "fork of 10,000 files, 200 MiB": async () => void (made = await fixture.fork(namespace)),
      "cp -a of them": async () => plain("cp", "-a", namespace.live, copied),
      "removal of both": async () => {
        if (made !== null) await fixture.worktrees.discard(made.id, fixture.call(namespace));
        rmSync(copied, { recursive: true });
      },
      "diff of 100 changed files among 10,000": async () => void (await fixture.worktrees.diff(kept.id)),
      "diff -r of them": async () => plain("diff", "-r", namespace.live, kept.work),
    },
    { rounds, warmups: 1 },
  );
  const merges: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const fork = await fixture.fork(namespace);
    change(fork.work, `round ${round}`);
    const start = performance.now();
    await fixture.worktrees.merge(fork.id, fixture.call(namespace));
    merges.push(performance.now() - start);
  }
  return [
    ...rows.filter(({ name }) => name !== "removal of both"),
    summary({ name: "merge of 100 changed files into 10,000", times: merges }),
  ];
}

import { cpSync, mkdirSync, openSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createSealedBlobs } from "../src/blobs/sealed.ts";
import { createLocalStore } from "../src/blobs/local.ts";
import { namespaceId } from "../src/ids.ts";
import { tarOf } from "../src/snapshots/archive.ts";
import { buildTree } from "../src/snapshots/build.ts";
import { createSnapshotMaker, type Made } from "../src/snapshots/create.ts";
import { Descriptor } from "../src/volumes/descriptor.ts";
import { createLeases } from "../src/volumes/leases.ts";
import { interleaved, summary, type Summary } from "./stats.ts";

const FILES = 10_000;
const CHANGED = FILES / 100;
/** A file that changed this long before is not read again. */
const SETTLED_MS = 2_100;

/** Only the snapshot in it is measured. */
const WITH_CHANGES = "changes, and a snapshot of them";

/** A directory as a workspace is: most files small, text that compresses to a half or so. */
function plantFiles(live: string): void {
  const words = Array.from({ length: 20_000 }, () => Math.random().toString(36).slice(2, 12));
  for (let file = 0; file < FILES; file++) {
    mkdirSync(join(live, directoryOf(file)), { recursive: true });
    const length = Math.floor(Math.exp(Math.random() * Math.log(64 * 1024)));
    let text = "";
    while (text.length < length) text += `${words[Math.floor(Math.random() * words.length)]} `;
    writeFileSync(join(live, directoryOf(file), `file-${file}`), text.slice(0, length));
  }
}

const directoryOf = (file: number): string => join(`d${file % 100}`, `e${file % 7}`);

async function plain(command: string): Promise<void> {
  const { exited } = Bun.spawn(["bash", "-o", "pipefail", "-c", command], { stderr: "inherit" });
  if ((await exited) !== 0) throw new Error(command);
}

/** Snapshots of 10,000 files, from reading to the last blob on the disk, beside what one would use instead. */
export async function snapshots(work: string, rounds: number): Promise<{ rows: Summary[]; dedupe: number }> {
  const at = (name: string) => join(work, name);
  const live = at("live");
  mkdirSync(live);
  plantFiles(live);
  const leases = createLeases({
    opener: { open: async () => {}, close: async () => {} },
    idleMs: () => 3_600_000,
    inUse: () => false,
    log: { warn: () => {} },
  });
  /** A namespace of its own has nothing stored yet. */
  const open = () => {
    const namespace = namespaceId.make();
    const store = createLocalStore(at("snapshot-blobs"));
    const key = { derive: (purpose: string, bytes = 32) => Buffer.alloc(bytes, purpose) };
    const blobs = createSealedBlobs({ store, namespace, key });
    const maker = createSnapshotMaker({
      leases,
      blobsOf: async () => blobs,
      openSpace: () => {
        const dir = new Descriptor(openSync(live, "r"));
        return { live: dir, tmp: dir, [Symbol.dispose]: () => dir[Symbol.dispose]() };
      },
      standstill: { isWarm: () => false, freeze: async () => null },
    });
    const create = async (base: Made | null) =>
      maker.create(namespace, { base: base === null ? null : base.manifest });
    return { blobs, create };
  };
  const chain = open();
  await Bun.sleep(SETTLED_MS);
  const first = await chain.create(null);
  const state = { last: first, restored: 0 };
  const waits = { unchanged: [] as number[], changed: [] as number[] };
  const changedTimes: number[] = [];
  const source = { blobs: chain.blobs, ref: first.manifest };
  const key = "00".repeat(32);
  const seal = `zstd -q -1 | openssl enc -aes-256-ctr -K ${key} -iv ${key.slice(0, 32)}`;
  const fresh = () => {
    const path = at(`restored-${state.restored++}`);
    mkdirSync(path);
    return path;
  };
  await plain(`tar -C ${live} -cf ${at("plain.tar")} .`);

  const rows = await interleaved(
    {
      "snapshot of 10,000 files": async () => void (await open().create(null)),
      "tar | zstd -1 | openssl enc -aes-256-ctr": async () =>
        plain(`tar -C ${live} -cf - . | ${seal} > ${at("plain.sealed")}`),
      [WITH_CHANGES]: async () => {
        for (let change = 0; change < CHANGED; change++) {
          const number = Math.floor(Math.random() * FILES);
          writeFileSync(join(live, directoryOf(number), `file-${number}`), `changed ${Math.random()}`);
        }
        const start = performance.now();
        state.last = await chain.create(state.last);
        changedTimes.push(performance.now() - start);
        waits.changed.push(state.last.pausedMs);
      },
    },
    { rounds, warmups: 3 },
  );
  rows.splice(
    rows.findIndex(({ name }) => name === WITH_CHANGES),
    1,
    summary({ name: "snapshot, 1 % changed", times: changedTimes }),
  );
  await Bun.sleep(SETTLED_MS);
  state.last = await chain.create(state.last);
  rows.push(
    ...(await interleaved(
      {
        "snapshot, nothing changed": async () => {
          state.last = await chain.create(state.last);
          waits.unchanged.push(state.last.pausedMs);
        },
        "restore of 10,000 files": async () => {
          using root = new Descriptor(openSync(fresh(), "r"));
          await buildTree(source, root);
        },
        "tar -x": async () => plain(`tar -C ${fresh()} -xf ${at("plain.tar")}`),
        "download as tar, without gzip": async () => {
          const file = Bun.file("/dev/null").writer();
          for await (const piece of tarOf(source)) {
            void file.write(piece);
            await file.flush();
          }
          await file.end();
        },
        "tar -c | cat": async () => plain(`tar -C ${live} -cf - . | cat > /dev/null`),
      },
      { rounds, warmups: 1 },
    )),
  );
  rows.push(summary({ name: "snapshot, nothing changed: writes wait", times: waits.unchanged }));
  rows.push(summary({ name: "snapshot, 1 % changed: writes wait", times: waits.changed }));

  // Half of the files once more, elsewhere.
  for (let dir = 0; dir < 50; dir++)
    cpSync(join(live, `d${dir}`), join(live, `copy${dir}`), { recursive: true });
  const copied = await chain.create(state.last);
  leases.stop();
  rmSync(live, { recursive: true });
  return { rows, dedupe: 1 - copied.newBytes / (copied.sizeBytes - state.last.sizeBytes) };
}

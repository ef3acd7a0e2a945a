import { expect, test } from "bun:test";
import { AppError } from "../../../src/errors.ts";
import { parsePath } from "../../../src/volumes/path.ts";
import type { Volume } from "../../../src/volumes/volume.ts";
import { openDescriptors } from "../../fixtures/scratch.ts";
import { until } from "../../fixtures/until.ts";
import { volumeFixture } from "../../fixtures/volumes.ts";

/** The same calls on a map: names to bytes, or to another map for a directory. */
type Tree = Map<string, Tree | Uint8Array>;

const NAMES = [
  "a",
  "b",
  "c d",
  "ü",
  "漢字",
  "🦀",
  "%41",
  "%2e",
  "..a",
  "a..b",
  "...",
  "-rf",
  "'\"`$(x)",
  "?",
  "#",
  "~",
  "n".repeat(255),
  ".hidden",
  "a&b=c",
];

const pick = <T>(from: readonly T[]): T => from[Math.floor(Math.random() * from.length)]!;
const randomPath = () =>
  Array.from({ length: 1 + Math.floor(Math.random() * 4) }, () => pick(NAMES)).join("/");

function find(root: Tree, names: readonly string[]): Tree | Uint8Array | undefined {
  let at: Tree | Uint8Array | undefined = root;
  for (const name of names) at = at instanceof Map ? at.get(name) : undefined;
  return at;
}

/** The error's code, or what changed. */
function modelWrite(root: Tree, names: readonly string[], bytes: Uint8Array): string {
  let at = root;
  for (const name of names.slice(0, -1)) {
    const next = at.get(name) ?? new Map<string, Tree | Uint8Array>();
    // The directories above are only made when the write can succeed.
    if (!(next instanceof Map)) return "conflict";
    if (!at.has(name)) break;
    at = next;
  }
  if (find(root, names) instanceof Map) return "conflict";
  at = root;
  for (const name of names.slice(0, -1)) {
    const next = at.get(name) ?? new Map<string, Tree | Uint8Array>();
    if (!(next instanceof Map)) return "conflict";
    at.set(name, next);
    at = next;
  }
  at.set(names.at(-1)!, bytes);
  return "ok";
}

function modelDelete(root: Tree, names: readonly string[]): string {
  const parent = find(root, names.slice(0, -1));
  return parent instanceof Map && parent.delete(names.at(-1)!) ? "ok" : "not_found";
}

function modelList(root: Tree, inner: string): string[] {
  const rows = [...root].toSorted(([a, x], [b, y]) =>
    x instanceof Map === y instanceof Map ? (a < b ? -1 : 1) : x instanceof Map ? -1 : 1,
  );
  return rows.flatMap(([name, value]) => {
    const path = inner === "" ? name : `${inner}/${name}`;
    return value instanceof Map
      ? [`workspace/${path} dir`, ...modelList(value, path)]
      : [`workspace/${path} ${value.length}`];
  });
}

async function outcome(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "ok";
  } catch (error) {
    if (error instanceof AppError) return error.code;
    throw error;
  }
}

async function list(volume: Volume): Promise<string[]> {
  const { entries, truncated } = await volume.list(parsePath("workspace/"), true);
  expect(truncated).toBe(false);
  return entries.map(({ path, is_dir, size_bytes }) => `${path} ${is_dir ? "dir" : size_bytes}`);
}

async function read(volume: Volume, path: string): Promise<Uint8Array | string> {
  try {
    const file = await volume.open(parsePath(path));
    try {
      return await file.bytes(0, file.status.size);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof AppError) return error.code;
    throw error;
  }
}

test("a thousand random calls do what they do to a map", async () => {
  using fixture = await volumeFixture();
  const { volume } = fixture;
  const root: Tree = new Map();
  const before = openDescriptors(fixture.dir);
  for (let step = 0; step < 1000; step++) {
    const path = randomPath();
    const names = path.split("/");
    const shown = `step ${step}: ${path}`;
    const choice = Math.random();
    if (choice < 0.5) {
      const bytes = crypto.getRandomValues(new Uint8Array(Math.floor(Math.random() * 3000)));
      const half = Math.floor(bytes.length / 2);
      const source = { chunks: [bytes.subarray(0, half), bytes.subarray(half)] };
      expect(`${shown} ${await outcome(volume.write(parsePath(path), source))}`).toBe(
        `${shown} ${modelWrite(root, names, bytes)}`,
      );
    } else if (choice < 0.7) {
      expect(`${shown} ${await outcome(volume.delete(parsePath(path)))}`).toBe(
        `${shown} ${modelDelete(root, names)}`,
      );
    } else {
      const expected = find(root, names);
      const got = await read(volume, path);
      if (expected instanceof Uint8Array) expect(Buffer.compare(got as Uint8Array, expected)).toBe(0);
      else expect([shown, got]).toEqual([shown, expected === undefined ? "not_found" : "bad_input"]);
    }
    if (step % 50 === 0) expect(await list(volume)).toEqual(modelList(root, ""));
  }
  expect(await list(volume)).toEqual(modelList(root, ""));
  // On a busy machine the last calls are still being counted.
  await until(async () => Bun.deepEquals(await fixture.known(), await fixture.usage()));
  expect(openDescriptors(fixture.dir)).toBe(before);
  expect(
    await Array.fromAsync(new Bun.Glob("*").scan({ cwd: fixture.tmp, onlyFiles: false, dot: true })),
  ).toEqual([]);
});

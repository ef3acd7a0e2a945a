import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { AppError } from "../../../src/errors.ts";
import { parsePath } from "../../../src/volumes/path.ts";
import { openDescriptors } from "../../fixtures/scratch.ts";
import { volumeFixture } from "../../fixtures/volumes.ts";

let fixture: Awaited<ReturnType<typeof volumeFixture>>;
let outside: string;

beforeEach(async () => {
  fixture = await volumeFixture();
  outside = join(fixture.dir, "outside");
  mkdirSync(outside);
  writeFileSync(join(outside, "secret"), "outside!");
});

afterEach(() => fixture[Symbol.dispose]());

const bytes = (text: string) => ({ chunks: [new TextEncoder().encode(text)] });

async function read(path: string): Promise<string> {
  const file = await fixture.volume.open(parsePath(path));
  try {
    return Buffer.from(await file.bytes(0, file.status.size)).toString();
  } finally {
    await file.close();
  }
}

/** Every call that looks a path up; each is to end with this error. */
function calls(path: string): Record<string, () => Promise<unknown>> {
  const { volume } = fixture;
  return {
    read: () => read(path),
    content: () => volume.content(parsePath(path)),
    write: () => volume.write(parsePath(path), bytes("x")),
    list: () => volume.list(parsePath(path), true),
  };
}

async function errorOf(call: () => Promise<unknown>): Promise<AppError> {
  try {
    await call();
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error("it was let through");
}

describe("a link that leads out", () => {
  test("is refused by every call, with the sentence of a bad path", async () => {
    const live = fixture.live;
    mkdirSync(join(live, "sub"));
    symlinkSync(outside, join(live, "absolute"));
    symlinkSync("../../outside", join(live, "relative"));
    symlinkSync("../absolute", join(live, "sub", "chain"));
    symlinkSync("/home/agent/workspace/../outside", join(live, "sandboxed"));
    symlinkSync("/home/agent/workspace/absolute", join(live, "twice"));
    symlinkSync("/proc/self/root", join(live, "magic"));
    symlinkSync("/", join(live, "root"));
    symlinkSync("loop", join(live, "loop"));
    const { message } = await errorOf(async () => parsePath(".."));
    for (const link of ["sub/chain", "twice", "absolute", "relative", "sandboxed", "magic", "root", "loop"]) {
      for (const path of [link, `${link}/secret`]) {
        for (const [name, call] of Object.entries(calls(path))) {
          const error = await errorOf(call);
          expect(`${name} ${path}: ${error.code} ${error.message}`).toBe(
            `${name} ${path}: bad_input ${message}`,
          );
        }
      }
      expect((await errorOf(() => fixture.volume.delete(parsePath(`${link}/secret`)))).message).toBe(message);
      // The link itself is the tenant's own.
      await fixture.volume.delete(parsePath(link));
    }
    expect(readdirSync(outside)).toEqual(["secret"]);
    expect(readFileSync(join(outside, "secret"), "utf8")).toBe("outside!");
  });

  test("is not followed by a deletion around it", async () => {
    mkdirSync(join(fixture.live, "d"));
    symlinkSync(outside, join(fixture.live, "d", "link"));
    await fixture.volume.delete(parsePath("d"));
    expect(readdirSync(outside)).toEqual(["secret"]);
  });
});

describe("a link that stays inside", () => {
  test("is followed, relative or by the path that commands see", async () => {
    await fixture.volume.write(parsePath("a/b/file"), bytes("inside"));
    symlinkSync("a/b", join(fixture.live, "relative"));
    symlinkSync("/home/agent/workspace/a/b", join(fixture.live, "absolute"));
    symlinkSync("../relative/../b", join(fixture.live, "a", "winding"));
    symlinkSync("../absolute", join(fixture.live, "a", "through"));
    symlinkSync("/home/agent/workspace", join(fixture.live, "a", "all"));
    for (const link of ["relative", "absolute", "a/winding", "a/through", "a/all/absolute"]) {
      expect(await read(`${link}/file`)).toBe("inside");
      expect((await fixture.volume.list(parsePath(link), false)).entries.map(({ path }) => path)).toEqual([
        `workspace/${link}/file`,
      ]);
      await fixture.volume.write(parsePath(`${link}/new/other`), bytes(link));
      expect(await read("a/b/new/other")).toBe(link);
      await fixture.volume.delete(parsePath(`${link}/new`));
    }
    expect(readdirSync(join(fixture.live, "a/b"))).toEqual(["file"]);
  });

  test("is written through, as by a shell's >", async () => {
    await fixture.volume.write(parsePath("a/file"), bytes("old"));
    symlinkSync("a/file", join(fixture.live, "one"));
    symlinkSync("/home/agent/workspace/one", join(fixture.live, "two"));
    symlinkSync("a/not-yet", join(fixture.live, "dangling"));
    symlinkSync("nowhere/at/all", join(fixture.live, "lost"));
    symlinkSync("a/", join(fixture.live, "dir"));
    expect(await fixture.volume.write(parsePath("two"), bytes("new"))).toMatchObject({
      path: "workspace/two",
    });
    expect(await read("a/file")).toBe("new");
    expect(readlinkSync(join(fixture.live, "two"))).toBe("/home/agent/workspace/one");
    await fixture.volume.write(parsePath("dangling"), bytes("made"));
    expect(await read("a/not-yet")).toBe("made");
    expect((await errorOf(() => fixture.volume.write(parsePath("lost"), bytes("x")))).code).toBe("not_found");
    expect((await errorOf(() => fixture.volume.write(parsePath("dir"), bytes("x")))).code).toBe("conflict");
  });
});

test("what is neither file nor directory is refused at once, and can be deleted", async () => {
  const { live, volume } = fixture;
  Bun.spawnSync(["mkfifo", join(live, "fifo")]);
  Bun.spawnSync(["mknod", join(live, "device"), "c", "1", "5"]);
  const server = createServer();
  await new Promise<void>((resolve) => void server.listen(join(live, "socket"), resolve));
  for (const name of ["fifo", "device", "socket"]) {
    for (const call of [
      () => read(name),
      () => volume.content(parsePath(name)),
      () => volume.write(parsePath(name), bytes("x")),
    ]) {
      const error = await errorOf(call);
      expect([error.code, error.message]).toEqual([
        "bad_input",
        expect.stringContaining(`workspace/${name} is neither`),
      ]);
    }
    expect((await errorOf(() => volume.list(parsePath(name), false))).code).toBe("bad_input");
  }
  expect((await volume.list(parsePath(""), true)).entries.map(({ name }) => name)).toEqual([
    "device",
    "fifo",
    "socket",
  ]);
  for (const name of ["fifo", "device", "socket"]) await volume.delete(parsePath(name));
  expect(readdirSync(live)).toEqual([]);
  server.close();
});

test("a file with a second name keeps that one when it is replaced", async () => {
  await fixture.volume.write(parsePath("a"), bytes("old"));
  linkSync(join(fixture.live, "a"), join(fixture.live, "b"));
  expect((await fixture.usage()).bytes).toBe(3);
  await fixture.volume.write(parsePath("a"), bytes("new!"));
  expect([await read("a"), await read("b")]).toEqual(["new!", "old"]);
});

describe("while a directory and a link out are swapped in a loop", () => {
  /** Enough that a naive open gets out hundreds of times; see the control. */
  const ROUNDS = 3000;
  let swapper: Bun.Subprocess<"ignore", "pipe", "inherit">;

  beforeEach(async () => {
    mkdirSync(join(fixture.live, "d"));
    writeFileSync(join(fixture.live, "d", "secret"), "tenant's own");
    symlinkSync("../../outside", join(fixture.live, "link"));
    const script = join(import.meta.dir, "../../fixtures/swapper.ts");
    swapper = Bun.spawn([process.execPath, script, fixture.live, "d", "link"], {
      stdout: "pipe",
      stdin: "ignore",
    });
    await swapper.stdout.getReader().read();
  });

  afterEach(async () => {
    swapper.kill("SIGKILL");
    await swapper.exited;
  });

  test("control: paths that are only looked at first do get out", async () => {
    let escapes = 0;
    for (let round = 0; round < 100 * ROUNDS && escapes < 3; round++) {
      if (!lstatSync(join(fixture.live, "d")).isDirectory()) continue;
      if ((await readFile(join(fixture.live, "d", "secret"), "utf8")) === "outside!") escapes++;
    }
    expect(escapes).toBe(3);
    for (let round = 0; round < 100 * ROUNDS && !existsSync(join(outside, "planted")); round++) {
      await writeFile(join(fixture.live, "d", "planted"), "x");
    }
    expect(existsSync(join(outside, "planted"))).toBe(true);
  });

  test("nothing outside is read, written or deleted", async () => {
    const before = openDescriptors(fixture.dir);
    const outcomes = new Map<string, number>();
    const note = (outcome: string) => void outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    async function attempt(name: string, call: () => Promise<unknown>) {
      try {
        const result = await call();
        // A listing of the outside would show its file's size.
        expect(JSON.stringify(result) ?? "").not.toMatch(/outside!|"size_bytes":8/);
        note(`${name} done`);
      } catch (error) {
        if (!(error instanceof AppError)) throw error;
        note(`${name} ${error.code}`);
      }
    }
    // Both sides of the swap have to be met, or this tests nothing.
    const met = () =>
      ["read", "write", "list"].every(
        (name) => outcomes.has(`${name} done`) && outcomes.has(`${name} bad_input`),
      );
    for (let round = 0; round < ROUNDS || (!met() && round < 20 * ROUNDS); round++) {
      await attempt("read", async () => expect(await read("d/secret")).toBe("tenant's own"));
      if (round % 4 === 0) {
        const path = parsePath(`d/x/n${round % 16}`);
        await attempt("write", () => fixture.volume.write(path, bytes("x")));
        await attempt("delete", () => fixture.volume.delete(path));
      }
      if (round % 16 === 0) {
        await attempt("list", () => fixture.volume.list(parsePath("d"), true));
        await attempt("content", () => fixture.volume.content(parsePath("d/secret")));
      }
    }
    expect(readdirSync(outside)).toEqual(["secret"]);
    expect(readFileSync(join(outside, "secret"), "utf8")).toBe("outside!");
    expect(openDescriptors(fixture.dir)).toBe(before);
    expect(met()).toBe(true);
  }, 60_000);
});

test("a directory that is being filled is deleted, and its end is soon", async () => {
  const filler = Bun.spawn(
    [
      "bash",
      "-c",
      `cd "$1" && mkdir full && cd full && echo ready && i=0; while :; do i=$((i+1)); mkdir -p s$((i%50)) 2>/dev/null; : > s$((i%50))/f$i; : > f$i; done 2>/dev/null`,
      "filler",
      fixture.live,
    ],
    { stdout: "pipe", stderr: "ignore" },
  );
  await filler.stdout.getReader().read();
  await Bun.sleep(300);
  await fixture.volume.delete(parsePath("full"));
  expect(existsSync(join(fixture.live, "full"))).toBe(false);
  filler.kill("SIGKILL");
  await filler.exited;
  // What the filler added behind the deletion's back goes at the next start.
  await fixture.volumes.sweep();
  rmSync(fixture.live, { recursive: true });
});

test("a tree deeper than any path or number of descriptors is deleted", async () => {
  const script = `import os
os.chdir(os.sys.argv[1])
for i in range(6000):
    os.mkdir("deep"); os.chdir("deep")
`;
  expect(Bun.spawnSync(["python3", "-c", script, fixture.live]).exitCode).toBe(0);
  expect((await fixture.volume.list(parsePath(""), true)).truncated).toBe(true);
  expect((await fixture.usage()).directories).toBe(6000);
  await fixture.volume.delete(parsePath("deep"));
  expect(readdirSync(fixture.live)).toEqual([]);
  expect(readdirSync(fixture.tmp)).toEqual([]);
}, 60_000);

test("one write makes so many directories and no more", async () => {
  const deep = `${"d/".repeat(64)}f`;
  await fixture.volume.write(parsePath(deep), bytes("x"));
  const before = openDescriptors(fixture.dir);
  const refused = await errorOf(() => fixture.volume.write(parsePath(`e/${deep}`), bytes("x")));
  expect([refused.code, existsSync(join(fixture.live, "e"))]).toEqual(["bad_input", false]);
  await fixture.volume.write(parsePath("e/f"), bytes("x"));
  await fixture.volume.write(parsePath(`e/${deep}`), bytes("x"));
  expect(openDescriptors(fixture.dir)).toBe(before);
  await fixture.volume.delete(parsePath("d"));
});

test("absolute links are followed only as far as one call may keep the others waiting", async () => {
  // Each link's text is nearly as long as a path may be, so that each look-up is as dear as can be.
  const script = `import os
os.chdir(os.sys.argv[1])
top = os.open(".", os.O_RDONLY)
for i in range(1500):
    os.mkdir("a"); os.chdir("a")
open("end", "w").write("found")
deep = "/home/agent/workspace/" + "a/" * 1500
for i in range(30):
    os.symlink(deep + ("end" if i == 0 else f"l{i - 1}"), f"l{i}")
os.fchdir(top)
os.symlink(deep + "l4", "short"); os.symlink(deep + "l29", "long")
os.mkdir("d"); open("d/end", "w").write("found")
for i in range(30):
    os.symlink("/home/agent/workspace/d/" + ("end" if i == 0 else f"l{i - 1}"), f"d/l{i}")
`;
  expect(Bun.spawnSync(["python3", "-c", script, fixture.live]).exitCode).toBe(0);
  expect(await read("short")).toBe("found");
  expect(await read("d/l29")).toBe("found");
  expect((await errorOf(() => read("long"))).code).toBe("bad_input");
  const listed = (await fixture.volume.list(parsePath(""), false)).entries.map(({ name }) => name);
  expect(listed).toEqual(["a", "d", "long", "short"]);
  await fixture.volume.delete(parsePath("a"));
}, 60_000);

test("names that are not UTF-8 are counted and deleted", async () => {
  mkdirSync(join(fixture.live, "d"));
  const odd = Buffer.concat([Buffer.from(`${join(fixture.live, "d")}/`), Buffer.from([0xff, 0xfe])]);
  mkdirSync(odd);
  writeFileSync(Buffer.concat([odd, Buffer.from("/"), Buffer.from([0x80])]), "12345");
  expect(await fixture.usage()).toEqual({ bytes: 5, files: 1, directories: 2 });
  expect((await fixture.volume.list(parsePath(""), true)).entries).toHaveLength(3);
  await fixture.volume.delete(parsePath("d"));
  expect(readdirSync(fixture.live)).toEqual([]);
});

import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { scratchDirectory } from "../../fixtures/scratch.ts";

const cacheScript = resolve("build/cache.sh");
const scratch = scratchDirectory();
afterAll(() => scratch[Symbol.dispose]());

/** `cached thing KEY make` in a bash of its own; `make` is the body of a function that gets OUT as $1. */
function cached(cache: string, key: string, make: string) {
  return Bun.spawn(
    [
      "bash",
      "-c",
      `. "$1"; make() { ${make}; }; path=$(cached thing "$2" make); echo "$path"`,
      "test",
      cacheScript,
      key,
    ],
    {
      env: { PATH: process.env["PATH"], COFFERDAM_CACHE: cache },
      stdout: "pipe",
      stderr: "pipe",
      detached: true,
    },
  );
}

const entries = (cache: string) => readdirSync(join(cache, "thing")).filter((name) => name !== ".lock");

test("what is there is not made again", async () => {
  const cache = join(scratch.path, "again");
  const first = cached(cache, "k", 'echo made >"$1"');
  expect(await first.stdout.text()).toBe(`${cache}/thing/k\n`);
  const second = cached(cache, "k", "exit 7");
  expect(await second.stdout.text()).toBe(`${cache}/thing/k\n`);
  expect(await second.exited).toBe(0);
});

test("a make that fails in the middle leaves nothing, and its status is told", async () => {
  const cache = join(scratch.path, "fails");
  const failing = cached(cache, "k", 'mkdir "$1"; echo half >"$1/file"; false; echo rest >>"$1/file"');
  expect(await failing.exited).not.toBe(0);
  expect(await failing.stdout.text()).toBe("");
  expect(entries(cache)).toEqual([]);
});

test("a make whose condition swallows the failure counts as failed too", async () => {
  const cache = join(scratch.path, "condition");
  const script = `. "$1"; make() { false && : >"$1"; }; if cached thing k make >/dev/null; then echo good; else echo bad; fi`;
  const { stdout } = Bun.spawnSync(["bash", "-c", script, "test", cacheScript], {
    env: { PATH: process.env["PATH"], COFFERDAM_CACHE: cache },
  });
  expect(stdout.toString()).toBe("bad\n");
});

test("many at once make it once, and all get it whole", async () => {
  const cache = join(scratch.path, "many");
  const log = join(scratch.path, "many.log");
  const make = `echo x >>${log}; mkdir "$1"; for i in 1 2 3; do echo $i >>"$1/file"; done`;
  const outs = await Promise.all(
    Array.from({ length: 12 }, async () => {
      const one = cached(cache, "k", make);
      const path = (await one.stdout.text()).trim();
      return Bun.file(join(path, "file")).text();
    }),
  );
  expect(new Set(outs)).toEqual(new Set(["1\n2\n3\n"]));
  expect(await Bun.file(log).text()).toBe("x\n");
});

test("a killed build leaves nothing in its place, and the next one clears its rest away", async () => {
  const cache = join(scratch.path, "killed");
  const started = join(scratch.path, "started");
  const killed = cached(cache, "k", `mkdir "$1"; echo half >"$1/file"; : >${started}; exec sleep 600`);
  while (!existsSync(started)) await Bun.sleep(5);
  process.kill(-killed.pid, "SIGKILL");
  await killed.exited;
  expect(entries(cache)).toHaveLength(1);
  expect(existsSync(join(cache, "thing/k"))).toBe(false);
  const next = cached(cache, "k", 'mkdir "$1"; echo whole >"$1/file"');
  expect(await next.exited).toBe(0);
  expect(await Bun.file(join(cache, "thing/k/file")).text()).toBe("whole\n");
  expect(entries(cache)).toEqual(["k"]);
});

/** A repo with build/bun alone and a bun.lock of our own, and an npm that delivers `archive`. */
function bunScript(integrity: string, archive: string): { exitCode: number; stderr: string } {
  const dir = join(scratch.path, `bun-${Bun.hash(integrity + archive)}`);
  mkdirSync(join(dir, "build"), { recursive: true });
  mkdirSync(join(dir, "bin"));
  for (const name of ["bun", "cache.sh"]) Bun.spawnSync(["cp", resolve("build", name), join(dir, "build")]);
  const name = "@oven/bun-linux-x64";
  writeFileSync(
    join(dir, "bun.lock"),
    `    "${name}": ["${name}@9.9.9", "", { "os": "linux" }, "${integrity}"],\n`,
  );
  writeFileSync(join(dir, "bin/npm"), `#!/bin/sh\ncp ${archive} ./package.tgz\n`, { mode: 0o755 });
  const { exitCode, stdout, stderr } = Bun.spawnSync([join(dir, "build/bun")], {
    env: { PATH: `${join(dir, "bin")}:${process.env["PATH"]}`, COFFERDAM_CACHE: join(dir, "cache") },
  });
  if (exitCode === 0) expect(stdout.toString()).toEndWith("/bun\n");
  return { exitCode, stderr: stderr.toString() };
}

test("build/bun takes the archive that bun.lock names, and no other", () => {
  const tree = join(scratch.path, "archive");
  mkdirSync(join(tree, "package/bin"), { recursive: true });
  writeFileSync(join(tree, "package/bin/bun"), "#!/bin/sh\necho 9.9.9\n", { mode: 0o755 });
  const archive = join(scratch.path, "bun.tgz");
  Bun.spawnSync(["tar", "-czf", archive, "-C", tree, "package"]);
  const integrity = (bytes: Uint8Array) =>
    `sha512-${new Bun.CryptoHasher("sha512").update(bytes).digest("base64")}`;

  const right = integrity(readFileSync(archive));
  expect(bunScript(right, archive)).toMatchObject({ exitCode: 0 });
  const wrong = bunScript(integrity(new TextEncoder().encode("another")), archive);
  expect(wrong.exitCode).toBe(1);
  expect(wrong.stderr).toContain("@oven/bun-linux-x64@9.9.9 is not what bun.lock says");
});

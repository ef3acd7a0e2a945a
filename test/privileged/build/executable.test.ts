import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { createClient } from "@libsql/client";
import { binary } from "../../fixtures/appliance.ts";
import { freePort } from "../../fixtures/free-port.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

/* The executable in a root directory that holds nothing but itself, the C library and /proc: no node_modules, no
   temporary directory, no environment. */

const scratch = scratchDirectory();
const root = join(scratch.path, "root");

function run(...argv: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv);
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr.toString()}`);
  return stdout.toString();
}

beforeAll(() => {
  if (!existsSync("/scratch")) throw new Error("run this test by test/host/throwaway: it mounts and chroots");
  mkdirSync(root);
  // A mount of its own, since api makes its view of the files private from the root on.
  run("mount", "--bind", root, root);
  for (const directory of ["bin", "proc", "dev", "etc", "data", "run", "tmp", "credentials"])
    mkdirSync(join(root, directory));
  copyFileSync(binary(), join(root, "bin/cofferdam"));
  // libSQL's native part also needs libgcc_s, which Debian's C library depends on.
  for (const [library] of run(
    "ldd",
    binary(),
    resolve("node_modules/@libsql/linux-x64-gnu/index.node"),
  ).matchAll(/(?<=[\s>])\/lib\S+/g)) {
    mkdirSync(dirname(join(root, library)), { recursive: true });
    copyFileSync(library, join(root, library));
  }
  run("mount", "-t", "proc", "proc", join(root, "proc"));
});

afterAll(() => {
  for (const directory of ["dev", "proc", "."]) Bun.spawnSync(["umount", "-l", join(root, directory)]);
  scratch[Symbol.dispose]();
});

function alone(args: string[], env: Record<string, string> = {}) {
  return Bun.spawn(["/usr/sbin/chroot", root, "/bin/cofferdam", ...args], {
    env,
    stdout: "pipe",
    stderr: "pipe",
  });
}

test("tells its version, and that nothing lies beside it", async () => {
  const process = alone(["version", "--json"]);
  expect(await process.stderr.text()).toBe("");
  expect(JSON.parse(await process.stdout.text())).toEqual({
    version: expect.stringMatching(/^\d+\.\d+\.\d+$/),
    commit: expect.stringMatching(/^[0-9a-f]{40}(-dirty)?$/),
    bun: Bun.version,
    runsc: null,
    rootfs: null,
    run_rootfs: null,
  });
  expect(await process.exited).toBe(0);
});

test("opens its database: libSQL's native part is inside", async () => {
  run("mount", "--rbind", "/dev", join(root, "dev"));
  writeFileSync(
    join(root, "etc/passwd"),
    "root:x:0:0::/:/x\ncofferdam:x:990:990::/:/x\ncofferdam-gw:x:991:991::/:/x\ncofferdam-tenant:x:10000:10000::/:/x\n",
  );
  writeFileSync(join(root, "etc/group"), "root:x:0:\ncofferdam:x:990:\ncofferdam-gw:x:991:\n");
  const prepared = alone(["prepare", "--data", "/data"]);
  expect(await prepared.stderr.text()).toBe("");
  expect(await prepared.exited).toBe(0);
  copyFileSync(join(root, "data/master.key"), join(root, "credentials/master.key"));
  run("chown", "-R", "990:990", join(root, "credentials"));

  const port = freePort();
  const api = alone(["api", "--data", "/data", "--listen", `127.0.0.1:${port}`], {
    CREDENTIALS_DIRECTORY: "/credentials",
  });
  try {
    const answer = await firstAnswer(`http://127.0.0.1:${port}/v1/me`, api);
    expect(answer.status).toBe(401);
  } finally {
    api.kill("SIGTERM");
    await api.exited;
  }
  const database = createClient({ url: `file:${join(root, "data/api/state/cofferdam.db")}` });
  const { rows } = await database.execute(
    "select count(*) as tables from sqlite_master where type = 'table'",
  );
  expect(Number(rows[0]?.["tables"])).toBeGreaterThan(0);
  database.close();
  // Nothing was unpacked to be loaded from a place where others could write.
  expect(run("find", join(root, "tmp"), join(root, "data"), "-name", "*.node")).toBe("");
});

test("reads no .env and no bunfig.toml of the working directory; Bun itself does", async () => {
  using hostile = scratchDirectory();
  writeFileSync(join(hostile.path, ".env"), "COFFERDAM_LIB=/from-dotenv\n");
  writeFileSync(join(hostile.path, "bunfig.toml"), 'preload = ["./preload.ts"]\n');
  writeFileSync(join(hostile.path, "preload.ts"), 'console.log("preloaded");\n');
  writeFileSync(join(hostile.path, "main.ts"), 'console.log(process.env["COFFERDAM_LIB"]);\n');
  const inHostile = { cwd: hostile.path, env: {} };
  const control = Bun.spawnSync([process.execPath, "main.ts"], inHostile);
  expect(control.stdout.toString()).toBe("preloaded\n/from-dotenv\n");

  mkdirSync(join(hostile.path, "lib"));
  writeFileSync(join(hostile.path, "lib/manifest.json"), "{");
  writeFileSync(join(hostile.path, ".env"), `COFFERDAM_LIB=${join(hostile.path, "lib")}\n`);
  const ours = Bun.spawnSync([resolve(binary()), "version"], inHostile);
  expect(ours.stderr.toString()).toBe("");
  expect(ours.exitCode).toBe(0);
  expect(ours.stdout.toString()).not.toContain("preloaded");
  // With the variable truly set, the damaged manifest is an error: so it was not read above.
  const set = Bun.spawnSync([resolve(binary()), "version"], {
    cwd: hostile.path,
    env: { COFFERDAM_LIB: join(hostile.path, "lib") },
  });
  expect(set.stderr.toString()).toContain("manifest.json is damaged");
});

/** Asks until the port answers; throws with api's words when it ends instead. */
async function firstAnswer(
  url: string,
  api: { exited: Promise<number>; stderr: ReadableStream },
): Promise<Response> {
  const ended = { yet: false };
  void api.exited.then(() => (ended.yet = true));
  while (!ended.yet) {
    try {
      return await fetch(url, { headers: { authorization: "Bearer trove-sk-unknown" } });
    } catch {
      await Bun.sleep(20);
    }
  }
  throw new Error(`api ended: ${await new Response(api.stderr).text()}`);
}

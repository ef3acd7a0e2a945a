import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { binary, startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { hostState } from "../fixtures/host-state.ts";
import { ensureUsers } from "../fixtures/users.ts";
import { until } from "../fixtures/until.ts";

const CONFIG = "[exec]\npool = 1\n";
const running: Appliance[] = [];
afterEach(async () => {
  for (const appliance of running.splice(0)) await appliance.stop();
});

async function start(options: Parameters<typeof startAppliance>[0] = { config: CONFIG }): Promise<Appliance> {
  const appliance = await startAppliance(options);
  running.push(appliance);
  return appliance;
}

/** `serve` as it is typed, until it ends by itself. */
async function serve(args: string[], prefix: string[] = []) {
  const child = Bun.spawn([...prefix, binary(), "serve", ...args], {
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { stdout, lastLine: stderr.trim().split("\n").at(-1) ?? "", code };
}

/** The API answers before the others do. */
function allReady(appliance: Appliance): Promise<true> {
  return until(() => readFileSync(`${appliance.data}.out`, "utf8") !== "");
}

describe("the first start", () => {
  test("writes the keys for root alone, once, and says where it listens", async () => {
    const appliance = await start();
    const { uid, mode } = statSync(appliance.keysFile);
    expect({ uid, mode: mode & 0o777 }).toEqual({ uid: 0, mode: 0o600 });
    const written = readFileSync(appliance.keysFile, "utf8");
    expect(Object.keys(JSON.parse(written))).toEqual([
      "base_url",
      "workspace_id",
      "admin_key",
      "workspace_key",
    ]);
    expect(JSON.parse(written).base_url).toBe(appliance.keys.base_url);
    await allReady(appliance);
    expect(readFileSync(`${appliance.data}.out`, "utf8")).toBe(
      `Cofferdam is ready: ${appliance.keys.base_url} (data ${appliance.data}, instance ${appliance.inst})\n`,
    );
    await appliance.stop();

    await start({ data: appliance.data });
    expect(readFileSync(appliance.keysFile, "utf8")).toBe(written);
  });
});

describe("the roles' processes", () => {
  test("have the users, capabilities and views that they should, and no more", async () => {
    const appliance = await start();
    await allReady(appliance);
    const expected = {
      api: { user: "cofferdam", caps: "000000000000040b" },
      gateway: { user: "cofferdam-gw", caps: "0000000000000000" },
    };
    for (const role of ["api", "gateway"] as const) {
      const pid = appliance.pid(role);
      const proc = (name: string) => readFileSync(`/proc/${pid}/${name}`, "utf8");
      const status = Object.fromEntries(
        proc("status")
          .split("\n")
          .map((line) => line.split(":\t")),
      );
      const id = Bun.spawnSync(["id", "-u", expected[role].user]).stdout.toString().trim();
      expect(status.Uid).toBe([id, id, id, id].join("\t"));
      for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
        expect(status[set]).toBe(expected[role].caps);
      expect([status.NoNewPrivs, status.Seccomp]).toEqual(["1", "2"]);
      expect(proc("cmdline")).toStartWith(`cofferdam: ${role}\0`);

      for (const task of readdirSync(`/proc/${pid}/task`)) {
        expect(readlinkSync(`/proc/${pid}/task/${task}/ns/mnt`)).toBe(readlinkSync(`/proc/${pid}/ns/mnt`));
        expect(proc(`task/${task}/status`)).toContain("Seccomp:\t2\n");
      }
      expect(readlinkSync(`/proc/${pid}/ns/mnt`)).not.toBe(readlinkSync("/proc/self/ns/mnt"));
      const root = `/proc/${pid}/root`;
      // But for the way to the executable, which a clone may have anywhere.
      const way = binary().split("/")[1];
      for (const name of ["root", "home", "bin", "sbin", "sys", "boot", "var"])
        if (name !== way) expect(readdirSync(root)).not.toContain(name);
      expect(readdirSync(`${root}/etc`)).not.toContain("shadow");
      const inData = role === "api" ? ["api", "inst", "keyring"] : ["gateway", "inst"];
      expect(readdirSync(root + appliance.data).toSorted()).toEqual(inData);
      const inRun = role === "api" ? ["api", "config", "gateway", "sandboxd"] : ["gateway", "gateway-config"];
      expect(readdirSync(`${root}/run/cofferdam/${appliance.inst}`).toSorted()).toEqual(inRun);
      for (const fd of [0, 1]) expect(readlinkSync(`/proc/${pid}/fd/${fd}`)).toBe("/dev/null");
      expect(readlinkSync(`/proc/${pid}/fd/2`)).toMatch(/^(pipe|socket):/);

      // Nor are the credentials of runs swapped out, as under systemd, and its memory has a bound.
      if (role === "gateway") {
        const group = /^(?:\d+:memory|0:):(.*\/gateway)$/m.exec(proc("cgroup"))?.[1] ?? "none";
        const [v1, v2] = [`/sys/fs/cgroup/memory${group}`, `/sys/fs/cgroup${group}`];
        const files = existsSync(v1)
          ? [`${v1}/memory.swappiness`, `${v1}/memory.limit_in_bytes`]
          : [`${v2}/memory.swap.max`, `${v2}/memory.max`];
        expect(files.map((file) => readFileSync(file, "utf8"))).toEqual(["0\n", `${4 * 1024 ** 3}\n`]);
      }

      // The master key is handed over where nobody can look it up.
      const key = readFileSync(`${appliance.data}/master.key`);
      for (const name of ["environ", "cmdline"])
        expect(readFileSync(`/proc/${pid}/${name}`).includes(key)).toBe(false);
    }
  });
});

describe("SIGHUP", () => {
  test("takes new limits, and keeps the old ones when the file is wrong", async () => {
    const appliance = await start({ config: `${CONFIG}command_kb = 128\n` });
    const file = `${appliance.data}.config.toml`;
    const long = { json: { command: `echo ok #${"x".repeat(4000)}` } };
    const status = async () => (await appliance.call("/v1/exec", long)).status;
    expect(await status()).toBe(200);
    // As editors do it: another file under the same name.
    const replace = async (content: string) => {
      writeFileSync(`${file}.new`, content);
      Bun.spawnSync(["mv", `${file}.new`, file]);
      process.kill(appliance.pid("serve"), "SIGHUP");
    };
    await replace(`${CONFIG}command_kb = 1\n`);
    await until(async () => (await status()) === 413);

    await replace(`${CONFIG}command_kb = "many"\n`);
    const log = () => readFileSync(`${appliance.data}.log`, "utf8");
    await until(() => log().includes("the one before stays in force"));
    expect(log()).toContain(`${file}:3`);
    expect(await status()).toBe(413);

    await replace(CONFIG);
    await until(async () => (await status()) === 200);
  });
});

describe("what stops a start", () => {
  test("a port that is taken: it gives up with a sentence and leaves nothing", async () => {
    const taken = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const data = "/scratch/taken/data";
    const { code, lastLine } = await serve(["--data", data, "--listen", `127.0.0.1:${taken.port}`]);
    taken.stop();
    expect(code).toBe(1);
    expect(lastLine).toBe("cofferdam: api does not start; its messages above say why");
    expect(hostState(readFileSync(`${data}/inst`, "utf8"))).toEqual([]);
  });

  test.each([
    [
      "a mistyped option",
      ["--lisen", "127.0.0.1:1"],
      /^cofferdam: There is no option --lisen; the options are --data, /,
      2,
    ],
    ["a word too many", ["now"], /^cofferdam: "now" is one word too many here\.$/, 2],
    [
      "a configuration that is absent",
      ["--config", "/nowhere.toml"],
      /\/nowhere\.toml: there is no such file\.$/,
      1,
    ],
    ["a data directory with something else", ["--data", "/usr"], /\/usr is not empty/, 1],
  ] as const)("%s", async (_what, args, message, expected) => {
    const data = args.includes("--data" as never) ? [] : ["--data", "/scratch/never/data"];
    const { code, lastLine } = await serve([...data, ...args]);
    expect(lastLine).toMatch(message);
    expect(code).toBe(expected);
  });

  test("not being root", async () => {
    ensureUsers();
    const asUser = ["setpriv", "--reuid=cofferdam", "--regid=cofferdam", "--clear-groups"];
    const { code, lastLine } = await serve(["--data", "/scratch/never/data"], asUser);
    expect(lastLine).toContain("has to be started by root");
    expect(code).toBe(1);
  });

  test("a missing user, with the command that makes it", async () => {
    ensureUsers();
    Bun.spawnSync(["userdel", "cofferdam-gw"]);
    const { code, lastLine } = await serve(["--data", "/scratch/never/data"]);
    expect(lastLine).toMatch(/user cofferdam-gw is missing; as root: useradd .* cofferdam-gw$/);
    expect(code).toBe(3);
    ensureUsers();
  });
});

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MAIN, startCliApi } from "../../fixtures/cli-api.ts";

// Each command is a process from source, and a test runs a dozen of them.
setDefaultTimeout(60_000);

const { data, checks, cofferdam, json, stop } = await startCliApi();
afterAll(() => stop());

describe("before there is a workspace", () => {
  test("the commands say how to make one", async () => {
    expect(await cofferdam(["namespace", "list"])).toEqual({
      code: 1,
      stdout: "",
      stderr: "cofferdam: There is no workspace yet; make one with: cofferdam workspace create NAME\n",
    });
    expect(await cofferdam(["workspace", "list"])).toMatchObject({
      code: 0,
      stdout: "There is no workspace yet.\n",
    });
  });
});

describe("with one workspace", () => {
  test("it is made, listed, and the default from then on", async () => {
    const { stdout } = await cofferdam(["workspace", "create", "main"]);
    expect(stdout).toMatch(/^ws-[a-z2-7]{16}\n$/);
    expect(await json(["workspace", "list"])).toMatchObject({
      workspaces: [{ name: "main", workspace_id: stdout.trim() }],
    });
    expect((await cofferdam(["workspace", "list"])).stdout).toMatch(
      /^WORKSPACE +NAME +CREATED\nws-\S+ +main +\d{4}-/,
    );
  });

  test("the operator's own, which proofs and evidence make, are nobody's default", async () => {
    for (const own of ["cofferdam prove", "cofferdam evidence"]) {
      await cofferdam(["workspace", "create", own]);
      expect(await cofferdam(["key", "list"])).toMatchObject({ code: 0, stderr: "" });
      expect(await cofferdam(["key", "list", "--workspace", own])).toMatchObject({ code: 0 });
    }
  });

  test("an option that a command can't do without is asked for in a sentence", async () => {
    expect(await cofferdam(["credential", "create", "x"], { stdin: "s" })).toEqual({
      code: 2,
      stdout: "",
      stderr: "cofferdam: --kind is missing: cofferdam credential create [options] NAME\n",
    });
  });

  test("a key is shown once, alone on stdout; it is listed, and revoked", async () => {
    const { stdout, stderr } = await cofferdam(["key", "create", "nightly job", "--namespace", "alice"]);
    expect(stdout).toMatch(/^trove-sk-[A-Za-z0-9]{48}\n$/);
    expect(stderr).toContain("not shown again");
    const { keys } = (await json(["key", "list"])) as { keys: { key_id: string; name: string }[] };
    expect(keys).toMatchObject([{ name: "nightly job", namespace: "alice", scope: "workspace" }]);
    expect((await cofferdam(["key", "list"])).stdout).not.toContain(stdout.trim());
    expect(await json(["key", "create", "boss", "--admin"])).toMatchObject({ scope: "admin" });
    const id = keys[0]!.key_id;
    expect((await cofferdam(["key", "revoke", id])).stdout).toBe(`${id} is revoked.\n`);
    expect(await cofferdam(["key", "revoke", id])).toMatchObject({
      code: 1,
      stderr: "cofferdam: The workspace has no such key; it may have been revoked before.\n",
    });
    expect(await cofferdam(["key", "create", "x", "--admin", "--namespace", "a"])).toMatchObject({ code: 2 });
  });

  test("files go in and come out byte for byte", async () => {
    const bytes = crypto.getRandomValues(new Uint8Array(300_000));
    const dir = mkdtempSync("/scratch/cli-files-");
    writeFileSync(join(dir, "in"), bytes);
    const put = await cofferdam(["file", "put", "alice", "workspace/d/a #?%41.bin", "in"], { cwd: dir });
    expect(put.stdout).toBe("workspace/d/a #?%41.bin: 293 KiB\n");
    expect((await cofferdam(["file", "get", "alice", "d/a #?%41.bin", "out"], { cwd: dir })).code).toBe(0);
    expect(Buffer.from(await Bun.file(join(dir, "out")).bytes()).equals(bytes)).toBe(true);
    expect((await cofferdam(["file", "get", "alice", "d/a #?%41.bin"], { cwd: dir })).code).toBe(0);
    expect(await Bun.file(join(dir, "a #?%41.bin")).exists()).toBe(true);
    await cofferdam(["file", "put", "alice", "note.txt"], { stdin: "by hand\n" });
    expect(await cofferdam(["file", "cat", "alice", "workspace/note.txt"])).toEqual({
      code: 0,
      stdout: "by hand\n",
      stderr: "",
    });
    expect(await json(["file", "ls", "alice", "--recursive"])).toMatchObject({
      entries: [
        { path: "workspace/d" },
        { path: "workspace/d/a #?%41.bin", size_bytes: 300_000 },
        { path: "workspace/note.txt" },
      ],
      truncated: false,
    });
    expect((await cofferdam(["file", "ls", "alice"])).stdout).toContain("workspace/d/");
    expect((await cofferdam(["namespace", "list"])).stdout).toMatch(/^NAMESPACE .*\nalice +293 KiB +2 /);
    expect((await cofferdam(["file", "rm", "alice", "workspace/d"])).stdout).toBe(
      "workspace/d is deleted.\n",
    );
    expect(await cofferdam(["file", "cat", "alice", "d/a"])).toMatchObject({ code: 1, stdout: "" });
  });

  test("a path that climbs is refused, not folded", async () => {
    for (const args of [["cat"], ["rm"], ["put"], ["ls"], ["get"]]) {
      const ran = await cofferdam(["file", ...args, "alice", "d/../note.txt"], { stdin: "" });
      expect(ran).toMatchObject({ code: 2, stderr: expect.stringContaining("This path can't be used") });
    }
    expect((await cofferdam(["file", "cat", "alice", "note.txt"])).stdout).toBe("by hand\n");
  });

  test("a local file that is not there", async () => {
    expect(await cofferdam(["file", "put", "alice", "a", "/nowhere"])).toMatchObject({
      code: 2,
      stderr: "cofferdam: /nowhere cannot be used here: there is no such file or directory.\n",
    });
    expect(await cofferdam(["file", "get", "alice", "note.txt", "/nowhere/out"])).toMatchObject({ code: 2 });
  });

  test("exec passes the command, its bytes and its exit code", async () => {
    const exec = (words: string[], options = {}) => cofferdam(["exec", "alice", ...words], options);
    expect(await exec(["--", "echo out; echo err >&2; exit 3"])).toEqual({
      code: 3,
      stdout: "out\n",
      stderr: "err\n",
    });
    expect(await exec(["--", "printf", "%s|", "a b", "it's", "$HOME", "--help"])).toMatchObject({
      stdout: "a b|it's|$HOME|--help|",
    });
    expect(await exec(["-i", "--", "rev"], { stdin: "abc\n" })).toMatchObject({ stdout: "cba\n" });
    expect(await exec(["--", "cat"], { stdin: "not taken" })).toMatchObject({ code: 0, stdout: "" });
    const child = Bun.spawn(
      [process.execPath, MAIN, "exec", "alice", "--", String.raw`printf '\xff\x00\xfe'`],
      {
        env: { COFFERDAM_DATA: data },
      },
    );
    expect([...(await child.stdout.bytes())]).toEqual([0xff, 0, 0xfe]);
    const asJson = await exec(["--json", "--", "echo hi; exit 4"]);
    expect([asJson.code, JSON.parse(asJson.stdout)]).toEqual([
      4,
      expect.objectContaining({ exit_code: 4, stdout: "hi\n", stderr: "" }),
    ]);
  });

  test("what stdout was redirected to keeps what it had; a reader that goes is no failure", async () => {
    const shell = async (script: string) => {
      const child = Bun.spawn(["bash", "-c", script, "bash", process.execPath, MAIN], {
        cwd: data,
        env: { PATH: process.env["PATH"], COFFERDAM_DATA: data },
        stdout: "pipe",
        stderr: "pipe",
      });
      const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
      return stdout + stderr;
    };
    await shell(`{ echo 1; "$@" exec alice -- 'echo 2'; "$@" file cat alice note.txt; echo 4; } > out`);
    expect(await Bun.file(join(data, "out")).text()).toBe("1\n2\nby hand\n4\n");
    const many = await shell(
      `"$@" exec alice -- 'yes | head -c 5000000' | wc -c; "$@" exec alice -- 'yes | head -c 5000000' | head -c 4`,
    );
    expect(many).toBe("5000000\ny\ny\n");
  });

  test("exec tells what the appliance could not do from what the command did", async () => {
    expect(await cofferdam(["exec", "alice", "--", "too long"])).toMatchObject({ code: 124 });
    expect(await cofferdam(["exec", "../x", "--", "true"])).toMatchObject({
      code: 125,
      stderr: expect.stringContaining("A namespace name has 1 to 128 characters"),
    });
    expect(await cofferdam(["exec", "--", "true"])).toMatchObject({
      code: 2,
      stderr: "cofferdam: Put NAMESPACE before the --.\n",
    });
    expect(await cofferdam(["exec", "alice", "bob", "--", "true"])).toMatchObject({ code: 2 });
    expect(await cofferdam(["exec", "alice"])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("after --"),
    });
  });

  test("a namespace is deleted with what it has", async () => {
    expect(await cofferdam(["namespace", "delete", "alice"])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("--yes"),
    });
    expect((await cofferdam(["namespace", "delete", "alice", "--yes"])).stdout).toBe("alice is deleted.\n");
    expect(await json(["namespace", "list"])).toEqual({ namespaces: [] });
    expect((await cofferdam(["namespace", "delete", "alice", "--yes"])).code).toBe(1);
  });
});

test("with several workspaces, one has to be named", async () => {
  await cofferdam(["workspace", "create", "second"]);
  expect(await cofferdam(["key", "list"])).toMatchObject({
    code: 2,
    stderr: expect.stringMatching(
      /^cofferdam: There are several workspaces; say which with --workspace: ws-\S+ \(main\), /,
    ),
  });
  expect((await cofferdam(["key", "list", "--workspace", "second"])).stdout).toContain("has no key");
  expect(await cofferdam(["key", "list", "--workspace", "third"])).toMatchObject({ code: 1 });
});

describe("status, doctor and config", () => {
  test("status", async () => {
    expect(await json(["status"])).toMatchObject({ instance: "c11f", exec: { warm: 1 } });
    expect((await cofferdam(["status"])).stdout).toContain("up 1 h 1 min");
  });

  test("doctor exits 1 when something is wrong, with what to do", async () => {
    expect(await cofferdam(["doctor"])).toMatchObject({
      code: 0,
      stdout: "ok    fake  is well\nNothing is wrong.\n",
    });
    checks.push({ name: "disk", status: "fail", detail: "full", fix: "Make room." });
    const ran = await cofferdam(["doctor"]);
    checks.pop();
    expect(ran).toMatchObject({
      code: 1,
      stdout: expect.stringMatching(/Make room\.\n1 of 2 checks failed\.\n$/),
    });
    expect(await json(["doctor"])).toMatchObject({ ok: true, checks: [{ name: "fake" }] });
  });

  test("config show tells each value's origin", async () => {
    const { settings } = (await json(["config", "show"])) as { settings: object[] };
    expect(settings).toContainEqual({ key: "exec.timeout_s", value: 30, origin: "default" });
    expect((await cofferdam(["config", "show"])).stdout).toMatch(/^KEY +VALUE +FROM\n/);
  });

  test("config check", async () => {
    writeFileSync(join(data, "try.toml"), "[exec]\ntimeout = 3\n");
    expect(await cofferdam(["config", "check", "try.toml"], { cwd: data })).toEqual({
      code: 2,
      stdout: "",
      stderr: expect.stringMatching(
        /^cofferdam: .*try\.toml:2: \[exec\] has no key "timeout"; its keys are .*\n$/,
      ),
    });
    writeFileSync(join(data, "try.toml"), "[exec]\ntimeout_s = 3\n");
    expect((await cofferdam(["config", "check", "try.toml"], { cwd: data })).code).toBe(0);
    writeFileSync(join(data, "try.toml"), '[http]\nlisten = "0.0.0.0:80"\n');
    expect((await cofferdam(["config", "check", "try.toml"], { cwd: data })).stderr).toContain(
      "in the clear",
    );
  });
});

describe("help", () => {
  const asked: string[][] = [[], ["--help"], ["help"], ["key", "--help"], ["help", "key"], ["exec", "-h"]];
  const leaves = ["serve", "status", "doctor", "version", "key create", "file put", "namespace delete"];
  for (const words of [...asked, ...leaves.map((leaf) => [...leaf.split(" "), "--help"])]) {
    test(`cofferdam ${words.join(" ")} fits 80 columns, in plain text`, async () => {
      const { code, stdout, stderr } = await cofferdam(words);
      expect([code, stderr]).toEqual([0, ""]);
      for (const line of stdout.split("\n")) {
        expect(line).toMatch(/^[\x20-\x7e]{0,80}$/);
        expect(line).toBe(line.trimEnd());
      }
    });
  }

  test("names every command in full, and what stands behind it", async () => {
    const top = (await cofferdam(["--help"])).stdout;
    expect(top).toContain("cofferdam COMMAND --help");
    expect(top).toMatch(/^ {2}exec +Run a command in a namespace\n/m);
    expect((await cofferdam(["exec", "--help"])).stdout).toContain(
      "cofferdam exec [options] NAMESPACE -- COMMAND...",
    );
    expect((await cofferdam(["key", "create", "--help"])).stdout).toContain(
      "cofferdam key create [options] NAME",
    );
    expect((await cofferdam(["file", "ls", "--help"])).stdout).toContain("NAMESPACE [PATH]");
  });

  test("--version is version", async () => {
    expect((await cofferdam(["--version"])).stdout).toBe((await cofferdam(["version"])).stdout);
  });
});

describe("what is wrong is said in one line", () => {
  const cases: [string, string[], number, RegExp][] = [
    ["an unknown command", ["kee", "list"], 2, /no command "kee"; there are: serve, workspace, key, /],
    [
      "an unknown subcommand",
      ["key", "mint"],
      2,
      /no command "key mint"; there are: create, list, revoke, rotate-master\./,
    ],
    ["no subcommand", ["key"], 2, /"cofferdam key" wants one of: create, list, revoke, rotate-master\./],
    ["an unknown option", ["key", "list", "--jsn"], 2, /no option --jsn/],
    ["an option in front", ["--data=/nowhere", "status"], 2, /Put --data=\/nowhere behind the command/],
    ["an option in the middle", ["key", "--data=/nowhere", "list"], 2, /Put --data=\/nowhere behind/],
    ["an option without its value", ["status", "--data"], 2, /--data wants a value: --data DIR\./],
    ["an option with an empty value", ["key", "create", "x", "--namespace="], 2, /--namespace wants a value/],
    [
      "a missing word",
      ["file", "cat", "a"],
      2,
      /PATH is missing: cofferdam file cat \[options\] NAMESPACE PATH$/m,
    ],
    [
      "a missing namespace",
      ["exec"],
      2,
      /NAMESPACE is missing: cofferdam exec \[options\] NAMESPACE -- COMMAND\.\.\./,
    ],
    ["a word too many", ["key", "list", "more"], 2, /"more" is one word too many/],
    ["no such instance", ["status", "--data", "/nowhere"], 1, /holds no instance/],
  ];
  for (const [name, args, code, sentence] of cases) {
    test(name, async () => {
      const ran = await cofferdam(args);
      expect([ran.code, ran.stdout, ran.stderr]).toEqual([code, "", expect.stringMatching(sentence)]);
      expect(ran.stderr.trim().split("\n")).toHaveLength(1);
    });
  }

  test("an appliance that is not running", async () => {
    const other = mkdtempSync("/scratch/cli-other-");
    writeFileSync(join(other, "inst"), "c120\n");
    const env = { COFFERDAM_DATA: other };
    expect(await cofferdam(["status"], { env })).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/is not running; start it with: systemctl start/),
    });
    expect((await cofferdam(["exec", "a", "--", "true"], { env })).code).toBe(125);
    expect(await cofferdam(["setup"], { env })).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/is not running; start it with: /),
    });
    const shown = await cofferdam(["config", "show"], { env: { ...env, COFFERDAM_EXEC_POOL: "7" } });
    expect(shown.stdout).toMatch(/exec.pool +7 +COFFERDAM_EXEC_POOL/);
    expect(shown.stderr).toContain("not running");
  });

  const refused: [string, RegExp][] = [
    [
      "status",
      /^cofferdam: Only root and the group cofferdam may do this; use sudo, or add yourself to the group\.\n$/,
    ],
    ["setup", /^cofferdam: Only root and the group cofferdam may do this; /],
    ["prepare", /^cofferdam: prepare has to be run by root; use sudo\.\n$/],
    ["serve", /^cofferdam: serve has to be started by root/],
  ];
  for (const [command, sentence] of refused) {
    test(`somebody who may not: ${command}`, async () => {
      for (const path of ["/scratch", data, "/run/cofferdam"]) chmodSync(path, 0o755);
      const child = Bun.spawn(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", process.execPath, MAIN, command],
        {
          env: { PATH: process.env["PATH"], COFFERDAM_DATA: data },
          stderr: "pipe",
        },
      );
      expect([await child.exited, await child.stderr.text()]).toEqual([1, expect.stringMatching(sentence)]);
    });
  }
});

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { scratchDirectory } from "../../fixtures/scratch.ts";

/* The sandboxes' root file system, under the real runsc, as sandboxd gives it. */

const lib = resolve(process.env["COFFERDAM_STAGE"] ?? "dist/stage", "lib/cofferdam");
const image = join(lib, "rootfs.erofs");
const scratch = scratchDirectory();
const bundle = join(scratch.path, "bundle");

beforeAll(() => {
  mkdirSync(join(bundle, "empty"), { recursive: true });
});
afterAll(() => scratch[Symbol.dispose]());

/** Runs a bash script in a fresh sandbox on the image; as root with every capability, or as the tenant. */
function inside(
  script: string,
  as: "root" | "agent" = "agent",
): { exitCode: number; stdout: string; stderr: string } {
  const id = as === "root" ? 0 : 10000;
  const sets = as === "root" ? ["CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_CHOWN", "CAP_FOWNER"] : [];
  const config = {
    ociVersion: "1.0.2",
    root: { path: join(bundle, "empty"), readonly: true },
    annotations: { "dev.gvisor.spec.rootfs.source": image, "dev.gvisor.spec.rootfs.type": "erofs" },
    process: {
      user: { uid: id, gid: id },
      cwd: "/tmp",
      env: ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin", "HOME=/tmp", "LC_ALL=C.UTF-8"],
      args: ["/bin/bash", "-c", script],
      capabilities: { bounding: sets, effective: sets, permitted: sets },
      noNewPrivileges: true,
    },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/tmp", type: "tmpfs", source: "tmpfs", options: ["mode=1777"] },
    ],
    linux: { namespaces: ["pid", "mount", "ipc", "uts", "network"].map((type) => ({ type })) },
  };
  writeFileSync(join(bundle, "config.json"), JSON.stringify(config));
  const flags = ["--platform=systrap", "--overlay2=none", "--network=none", "--directfs=false"];
  const { exitCode, stdout, stderr } = Bun.spawnSync(
    [
      join(lib, "runsc"),
      "--root",
      join(scratch.path, "state"),
      ...flags,
      "--ignore-cgroups",
      "run",
      "--bundle",
      bundle,
      "t",
    ],
    { stdin: "ignore" },
  );
  return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
}

test("the manifest's digest is the image's", async () => {
  const manifest = JSON.parse(readFileSync(join(lib, "manifest.json"), "utf8"));
  const hash = new Bun.CryptoHasher("sha256");
  for await (const chunk of Bun.file(image).stream()) hash.update(chunk);
  expect(manifest.rootfs).toBe(`sha256:${hash.digest("hex")}`);
});

test("every tool that a command may count on is there and starts", () => {
  const tools = {
    "bash --version": "GNU bash",
    "ls --version": "coreutils",
    "find --version": "findutils",
    "gawk --version": "GNU Awk",
    "awk 'BEGIN { print 6 * 7 }'": "42",
    "echo abc | sed s/b/x/": "axc",
    "echo abc | grep -o b": "b",
    "rg --version": "ripgrep",
    "jq --version": "jq-",
    "file -b /bin/true": "ELF",
    "tree --version": "tree v",
    "diff --version": "diffutils",
    "patch --version": "GNU patch",
    "tar --version": "tar (GNU tar)",
    "echo a | gzip | gunzip": "a",
    "echo a | bzip2 | bunzip2": "a",
    "echo a | xz | unxz": "a",
    "echo a | zstd | unzstd": "a",
    "echo a > f; zip -q z.zip f; unzip -p z.zip": "a",
    "curl --version": "curl",
    "git init -q r && git -C r -c user.name=a -c user.email=a@b.invalid commit -q --allow-empty -m first && git -C r log --oneline":
      "first",
    "python3 -c 'import sqlite3, ssl, ctypes; print(sqlite3.sqlite_version)'": "3.",
    "python3 -m venv v && v/bin/pip --version": "pip",
    "pip --version": "pip",
    "node -e 'console.log(process.version)'": "v20.",
    "npm --version": ".",
    "pdftotext -v 2>&1": "pdftotext version",
    "pdfinfo -v 2>&1": "pdfinfo version",
    "ffmpeg -v error -f lavfi -i testsrc=duration=1:size=64x64:rate=5 t.mp4 && ffprobe -v error -show_entries format=format_name t.mp4":
      "mp4",
    "convert -size 60x20 label:hello p.png 2>&1 && identify p.png": "p.png PNG 60x20",
    "fc-list 2>&1 | head -n 1": "/usr/share/fonts",
    "convert -size 60x20 xc:red e.png && exiftool -ImageWidth e.png": "60",
    "sqlite3 :memory: 'select 6 * 7'": "42",
    "echo '2^70' | bc": "1180591620717411303424",
    "printf 'x:\\n\\techo made\\n' > Makefile; make -s x": "made",
    "echo 'int main(void) { return 7; }' > m.c; gcc -O2 m.c -o m; ./m; echo $?": "7",
    "ps --version": "procps",
    "less --version": "less",
  };
  const commands = Object.keys(tools);
  const script = commands
    .map(
      (command, at) =>
        `echo "== ${at}"; (mkdir /tmp/${at}; cd /tmp/${at}; ${command}) 2>/tmp/err || cat /tmp/err`,
    )
    .join("\n");
  const { stdout } = inside(script);
  const answers = stdout.split(/^== \d+\n/m).slice(1);
  const wrong = Object.entries(tools).flatMap(([command, word], at) =>
    answers[at]?.includes(word) === true ? [] : [{ command, answer: answers[at] ?? null }],
  );
  expect(wrong).toEqual([]);
}, 180_000);

test("nothing in it can be changed, not even by root with capabilities; a tmpfs beside it can", () => {
  const attempts = [
    "touch /new",
    "echo x >>/etc/passwd",
    "rm -f /usr/bin/jq",
    "mkdir /usr/new",
    "chmod 777 /etc",
    "chown 10000 /etc/passwd",
    "mv /usr/bin/jq /usr/bin/jq2",
    "ln -s x /link",
    "mkfifo /fifo",
    "truncate -s 0 /usr/bin/jq",
  ];
  const script = attempts.map((attempt) => `(${attempt}) 2>&1; echo "status $?"`).join("\n");
  const { stdout } = inside(`${script}\ntouch /tmp/control && echo control written; jq --version`, "root");
  expect(stdout.match(/^status [1-9]/gm)).toHaveLength(attempts.length);
  expect(stdout.match(/Read-only file system/g)).toHaveLength(attempts.length);
  expect(stdout).toContain("control written");
  expect(stdout).toContain("jq-");
});

test("it holds no setuid file, no other owner than Debian's, no host's traces, and the tenant's user", () => {
  const { stdout } = inside(
    `find / -xdev -perm /6000 -printf 'setid %p\\n'
     find / -xdev \\( -uid +999 -o -gid +999 \\) -printf 'foreign %p\\n'
     find / -xdev -perm /0002 ! -type l ! -perm -1000 -printf 'writable %p\\n'
     cat /etc/machine-id /etc/resolv.conf; ls -A /var/log; ls -d /etc/apt /var/lib/apt 2>/dev/null
     id; getent passwd agent; readlink /workspace; stat -c '%U %a' / /home/agent /usr/sbin/cofferdam-init; cat /etc/hostname`,
    "agent",
  );
  expect(stdout).toBe(`uid=10000(agent) gid=10000(agent) groups=10000(agent)
agent:x:10000:10000:agent:/home/agent:/bin/bash
/home/agent/workspace
root 755
root 755
root 755
sandbox
`);
});

test("Python's byte code is used as it is, without a look at the sources", () => {
  const { stdout } = inside(
    `python3 -v -c 'import json' 2>&1 | grep -c 'code object from .*__pycache__' ; python3 -c '
import importlib.util, json, struct
flags = struct.unpack("<I", open(importlib.util.cache_from_source(json.__file__), "rb").read(8)[4:])[0]
print("unchecked hash" if flags == 1 else flags)'`,
  );
  expect(stdout).toMatch(/^[1-9]\d*\nunchecked hash\n$/);
});

// Half a minute and a gigabyte.
test.if(process.env["COFFERDAM_TEST_LONG"] === "1")(
  "the same inputs make the same image",
  () => {
    const cache =
      process.env["COFFERDAM_CACHE"] ??
      join(process.env["XDG_CACHE_HOME"] ?? join(process.env["HOME"] ?? "/root", ".cache"), "cofferdam");
    const again = join(scratch.path, "cache");
    mkdirSync(again);
    // Debian as it was fetched, all else anew.
    Bun.spawnSync(["cp", "-r", join(cache, "debian"), again]);
    const { exitCode, stdout, stderr } = Bun.spawnSync([resolve("rootfs/build")], {
      env: { ...process.env, COFFERDAM_CACHE: again },
    });
    expect({ exitCode, stderr: stderr.toString() }).toEqual({
      exitCode: 0,
      stderr: expect.stringContaining("making the image"),
    });
    expect(stderr.toString()).not.toContain("downloading");
    const digest = readFileSync(join(stdout.toString().trim(), "digest"), "utf8").trim();
    expect(digest).toBe(JSON.parse(readFileSync(join(lib, "manifest.json"), "utf8")).rootfs);
  },
  300_000,
);

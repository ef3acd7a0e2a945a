import { beforeAll, expect, test } from "bun:test";
import {
  chownSync,
  cpSync,
  existsSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import { namespaceId, type NamespaceId } from "../../../src/ids.ts";
import { MountAttr, bindMount, moveMount, newFilesystem, umount } from "../../../src/kernel/mounts.ts";
import { closeFd } from "../../../src/kernel/openat2.ts";
import { roleUser } from "../../../src/kernel/users.ts";
import { fakeApi, asUid, prepareLibrary, refusal, stage } from "./stage.ts";

let lib = "";
beforeAll(() => {
  lib = prepareLibrary();
}, 300_000);

type Stage = Awaited<ReturnType<typeof stage>>;

/** Each plants something where api may, for a volume that was good before. */
const plants: Record<string, (at: Stage, namespace: NamespaceId) => void> = {
  "live is a symlink to /etc": (at, namespace) =>
    replaceLive(at, namespace, (live) => symlinkSync("/etc", live)),
  "live is a symlink to another volume": (at, namespace) =>
    replaceLive(at, namespace, (live) => symlinkSync(`../${at.namespace()}/live`, live)),
  "the volume is a symlink": (at, namespace) => {
    const volume = join(at.instance.api.volumes, namespace);
    renameSync(volume, `${volume}-real`);
    symlinkSync(`${namespace}-real`, volume);
  },
  "volumes is a symlink": (at) => {
    const { volumes } = at.instance.api;
    renameSync(volumes, `${volumes}-real`);
    symlinkSync("volumes-real", volumes);
  },
  "live is root's": (at, namespace) => chownSync(at.live(namespace), 0, 0),
  "live is api's": (at, namespace) => chownSync(at.live(namespace), roleUser("cofferdam").uid, 10000),
  "live is a file": (at, namespace) => replaceLive(at, namespace, (live) => writeFileSync(live, "")),
  "live is a FIFO": (at, namespace) =>
    replaceLive(at, namespace, (live) => expect(Bun.spawnSync(["mkfifo", live]).exitCode).toBe(0)),
  "live is absent": (at, namespace) => replaceLive(at, namespace, () => {}),
  "live is a bind mount": (at, namespace) => bindMount("/etc", at.live(namespace)),
  "live is another file system": (at, namespace) => mountTmpfs(at.live(namespace)),
  "volumes is another file system": (at, namespace) => {
    const { volumes } = at.instance.api;
    cpSync(volumes, "/scratch/volumes-copy", { recursive: true });
    mountTmpfs(volumes);
    cpSync("/scratch/volumes-copy", volumes, { recursive: true });
    chownSync(at.live(namespace), 10000, 10000);
  },
};

function replaceLive(at: Stage, namespace: NamespaceId, make: (live: string) => void): void {
  const live = at.live(namespace);
  rmSync(live, { recursive: true });
  make(live);
  if (existsSync(live)) Bun.spawnSync(["chown", "-h", "10000:10000", live]);
}

function mountTmpfs(path: string): void {
  const tree = newFilesystem("tmpfs", { mode: "755", uid: "10000", gid: "10000" }, MountAttr.noSuid);
  moveMount(tree, { path });
  closeFd(tree);
}

test.each(Object.keys(plants))(
  "api can't have anything but a volume attached: %s",
  async (name) => {
    const at = await stage(lib);
    const [namespace, good] = [at.namespace(), at.namespace()];
    // The control: the same volume is attached as long as it is what it should be.
    const { sandbox } = await at.client.call("ensureSandbox", { namespace });
    await at.client.call("stopSandbox", { sandbox });
    await at.client.call("ensureSandbox", { namespace: good });
    const before = at.left();

    plants[name]!(at, namespace);
    expect(await refusal(at.client.call("ensureSandbox", { namespace }))).toContain("could not be prepared");
    expect(at.left().filter((line) => !line.startsWith("mount /scratch"))).toEqual(before);
    for (const path of [at.live(namespace), at.instance.api.volumes]) {
      try {
        umount(path, { detach: true });
      } catch {
        // Only two of the plants are mounts.
      }
    }
    expect(await at.end()).toEqual([]);
  },
  60_000,
);

test("a race between a volume and a link to /etc never attaches /etc", async () => {
  const at = await stage(lib, { exec: { pool: 2 } });
  const namespace = at.namespace();
  const live = at.live(namespace);
  writeFileSync(join(live, "mark"), "volume");
  symlinkSync("/etc", join(dirname(live), "link"));
  // Swaps the two by RENAME_EXCHANGE as fast as it can, in a process of its own.
  const swapper = Bun.spawn(["bun", join(import.meta.dir, "swap.ts"), dirname(live), "live", "link"]);
  let attached = 0;
  let refused = 0;
  try {
    const end = Date.now() + 40_000;
    while (Date.now() < end && (attached < 8 || refused < 8)) {
      try {
        const { sandbox } = await at.client.call("ensureSandbox", { namespace });
        attached += 1;
        expect(
          await at.api.shell(sandbox, "cat /home/agent/workspace/mark; ls /home/agent/workspace | wc -l"),
        ).toBe("volume1\n");
        await at.client.call("stopSandbox", { sandbox });
      } catch (error) {
        expect(String(error)).toContain("could not be prepared");
        refused += 1;
      }
    }
  } finally {
    swapper.kill("SIGKILL");
    await swapper.exited;
  }
  // Both happened, or nothing was raced.
  expect(attached).toBeGreaterThan(0);
  expect(refused).toBeGreaterThan(0);
  expect(await at.end()).toEqual([]);
}, 60_000);

test("a sandbox is not connected to a listener that is not api's", async () => {
  const at = await stage(lib, { api: false });
  const namespace = at.namespace();
  const { sandboxes } = at.instance.sockets;
  let heard = "";
  const listen = () =>
    Bun.listen({
      unix: "/scratch/other.sock",
      socket: {
        data(_socket, chunk) {
          heard += chunk.toString();
        },
      },
    });
  for (const uid of [0, 10000]) {
    rmSync("/scratch/other.sock", { force: true });
    rmSync(sandboxes, { force: true });
    const other = listenAs(uid, listen);
    symlinkSync("/scratch/other.sock", sandboxes);
    expect(await refusal(at.client.call("ensureSandbox", { namespace }))).toContain("could not be prepared");
    other.stop(true);
  }
  expect(heard).toBe("");
  expect(at.left()).toEqual([]);

  // The control: the very same link, to a socket that api listens on.
  rmSync("/scratch/other.sock", { force: true });
  rmSync(sandboxes, { force: true });
  const elsewhere = { ...at.instance, sockets: { ...at.instance.sockets, sandboxes: "/scratch/other.sock" } };
  const api = fakeApi(elsewhere);
  symlinkSync("/scratch/other.sock", sandboxes);
  const { sandbox } = await at.client.call("ensureSandbox", { namespace });
  expect(await api.shell(sandbox, "echo hello")).toBe("hello\n");
  await at.end();
  api.close();
  expect(at.left()).toEqual([]);
}, 60_000);

function listenAs<T>(uid: number, listen: () => T): T {
  Bun.spawnSync(["chmod", "1777", "/scratch"]);
  return uid === 0 ? listen() : asUid(uid, listen);
}

test("only api and root are answered", async () => {
  const at = await stage(lib);
  const path = at.instance.sockets.sandboxd;
  // Without the mode and the directory's, so that the check of the peer alone stands in the way.
  Bun.spawnSync(["chmod", "0777", path, dirname(path)]);
  const request = `${JSON.stringify({ id: 1, op: "status", args: {} })}\n`;
  const answers: [number, boolean][] = [
    [roleUser("cofferdam").uid, true],
    [0, true],
    [10000, false],
    [roleUser("cofferdam-gw").uid, false],
  ];
  for (const [uid, answered] of answers)
    expect([uid, await ask(path, uid, request)]).toEqual([uid, answered]);
  expect(await at.end()).toEqual([]);
}, 60_000);

async function ask(path: string, uid: number, request: string): Promise<boolean> {
  const socket = asUid(uid, () => connect(path));
  socket.on("error", () => {});
  socket.write(request);
  return await new Promise((resolve) => {
    socket.on("data", (chunk: Buffer) => {
      resolve(chunk.toString().includes('"ok":true'));
      socket.destroy();
    });
    socket.on("close", () => resolve(false));
  });
}

test("what is no request is refused, and a line without end is cut off", async () => {
  const at = await stage(lib);
  const path = at.instance.sockets.sandboxd;
  const namespace = namespaceId.make();
  const refused = [
    "hello",
    "null",
    JSON.stringify({ id: 1, op: "run", args: {} }),
    JSON.stringify({ id: 1, op: "toString", args: {} }),
    JSON.stringify({ id: 1, op: "ensureSandbox", args: { namespace: "../../etc" } }),
    JSON.stringify({ id: 1, op: "ensureSandbox", args: { namespace: `${namespace}/../../../etc` } }),
    JSON.stringify({ id: 1, op: "ensureSandbox", args: { namespace, path: "/etc" } }),
    JSON.stringify({ id: 1, op: "stopSandbox", args: { sandbox: "sb-../../../../x" } }),
    JSON.stringify({ id: 1, op: "status", args: {}, argv: ["sh"] }),
    JSON.stringify({ id: -1, op: "status", args: {} }),
  ];
  for (const line of refused) {
    const [answer = ""] = await talk(path, `${line}\n`);
    expect([line, JSON.parse(answer) as unknown]).toMatchObject([line, { ok: false, code: "bad_request" }]);
  }
  expect(await talk(path, "x".repeat(200_000))).toEqual([]);
  expect(at.left()).toEqual([]);
  const [control = ""] = await talk(path, `${JSON.stringify({ id: 7, op: "status", args: {} })}\n`);
  expect(JSON.parse(control)).toMatchObject({ id: 7, ok: true });
  expect(await at.end()).toEqual([]);
}, 60_000);

/** The lines that come back until the first whole one or the end. */
async function talk(path: string, text: string): Promise<string[]> {
  const socket = connect(path);
  socket.on("error", () => {});
  socket.write(text);
  let received = "";
  await new Promise<void>((resolve) => {
    socket.on("data", (chunk: Buffer) => {
      received += chunk.toString();
      if (received.includes("\n")) socket.destroy();
    });
    socket.on("close", () => resolve());
  });
  return received.split("\n").filter(Boolean);
}

test("a sandbox's root sees nothing of the host and can write only in workspace", async () => {
  const at = await stage(lib);
  writeFileSync("/scratch/secret", "host secret");
  const [mine, other] = [at.namespace(), at.namespace()];
  writeFileSync(join(at.live(other), "private"), "other tenant");
  const { sandbox } = await at.client.call("ensureSandbox", { namespace: mine });
  await at.client.call("ensureSandbox", { namespace: other });
  const run = (script: string) => at.api.shell(sandbox, script);

  // The controls: a command runs, and what is in the volume is there for its owner.
  expect(await run("id -u; cat /proc/version >/dev/null && echo proc")).toBe("0\nproc\n");
  chownSync(at.live(mine), 0, 0);
  expect(await run("echo mine >/home/agent/workspace/f && cat /home/agent/workspace/f")).toBe("mine\n");
  expect(readFileSync(join(at.live(mine), "f"), "utf8")).toBe("mine\n");

  for (const path of ["/scratch/secret", "/run/cofferdam", "/etc/passwd", "/root", lib]) {
    expect([path, existsSync(path)]).toEqual([path, true]);
    expect([path, await run(`ls -d ${path} 2>/dev/null; true`)]).toEqual([path, ""]);
  }
  for (const path of ["/x", "/bin/x", "/sbin/cofferdam-init", "/home/agent/x", "/home/x"]) {
    expect([path, await run(`(echo x >${path}) 2>/dev/null && echo written; true`)]).toEqual([path, ""]);
  }
  for (const flags of [
    "-o remount,rw /",
    "-o remount,rw /home/agent",
    "-t ext4 /dev/vda /tmp",
    "--bind /proc/1/root /tmp",
  ]) {
    const before = await run("ls /tmp");
    await run(`mount ${flags} 2>/dev/null; true`);
    expect([
      flags,
      await run("(echo x >/home/agent/x; echo x >/x) 2>/dev/null && echo written; true"),
    ]).toEqual([flags, ""]);
    expect(await run("ls /tmp/scratch /tmp/run 2>/dev/null; true")).toBe("");
    await run("umount /tmp 2>/dev/null; true");
    expect(await run("ls /tmp")).toBe(before);
  }
  expect(await run("cd /home/agent/workspace/../../../; pwd; ls")).toBe(
    "/\nbin\ndev\nhome\nproc\nsbin\nsys\ntmp\n",
  );
  expect(await run("find / -name private -o -name secret 2>/dev/null; true")).toBe("");
  expect(
    await run(
      "ls /sys/class/net /proc/sys/net 2>/dev/null; ip link 2>/dev/null | grep -v lo | grep UP; true",
    ),
  ).not.toContain("eth");
  expect(readdirSync(at.live(mine))).toEqual(["f"]);
  expect(readdirSync(sandboxSlot(at, sandbox))).toEqual(["workspace"]);
  expect(await at.end()).toEqual([]);
}, 60_000);

function sandboxSlot(at: Stage, sandbox: string): string {
  return join(at.instance.sandboxd.slots, sandbox);
}

test("the host's kernel log as a device file in a volume can't be read, on the attached copy or inside", async () => {
  const at = await stage(lib);
  const namespace = at.namespace();
  const device = join(at.live(namespace), "kmsg");
  expect(Bun.spawnSync(["mknod", "-m", "666", device, "c", "1", "11"]).exitCode).toBe(0);
  const { sandbox } = await at.client.call("ensureSandbox", { namespace });
  const readable = (path: string) =>
    Bun.spawnSync(["dd", `if=${path}`, "bs=8192", "count=1", "iflag=nonblock"]).stdout.length > 0;
  expect(readable(device)).toBe(true);
  expect(readable(join(sandboxSlot(at, sandbox), "workspace", "kmsg"))).toBe(false);
  const inside = "dd if=/home/agent/workspace/kmsg bs=8192 count=1 2>/dev/null | wc -c";
  expect(await at.api.shell(sandbox, inside)).toBe("0\n");
  expect(await at.end()).toEqual([]);
}, 60_000);

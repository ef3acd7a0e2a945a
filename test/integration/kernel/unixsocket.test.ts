import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KernelError } from "../../../src/kernel/libc.ts";
import { closeFd, openBeneath } from "../../../src/kernel/openat2.ts";
import { peerCredentials } from "../../../src/kernel/peer.ts";
import { statfs } from "../../../src/kernel/statfs.ts";
import { connectUnix, sendDatagram } from "../../../src/kernel/unixsocket.ts";

const top = mkdtempSync(join(tmpdir(), "unix-"));
afterAll(() => rmSync(top, { recursive: true }));

test("connects, shows the listener's credentials, and carries bytes", async () => {
  const path = join(top, "s");
  const received = Promise.withResolvers<string>();
  const server = Bun.listen({
    unix: path,
    socket: { data: (_socket, data) => received.resolve(data.toString()) },
  });
  const fd = connectUnix(path);
  expect(peerCredentials(fd)).toEqual({
    pid: process.pid,
    uid: process.getuid?.() ?? -1,
    gid: process.getgid?.() ?? -1,
  });
  writeSync(fd, "hello");
  expect(await received.promise).toBe("hello");
  closeFd(fd);
  server.stop(true);
});

test("no listener, no path, too long a path", () => {
  const code = (path: string) => {
    try {
      return connectUnix(path);
    } catch (error) {
      return error instanceof KernelError ? error.code : error;
    }
  };
  expect(code(join(top, "absent"))).toBe("ENOENT");
  expect(code(`/${"x".repeat(120)}`)).toBe("ENAMETOOLONG");
  expect(code("/a\0b")).toBe("EINVAL");
});

test("what is not a connected unix socket has no credentials", () => {
  const fd = openBeneath(-100, ".", 0);
  expect(() => peerCredentials(fd)).toThrow("ENOTSOCK");
  closeFd(fd);
});

test.each(["path", "abstract"])("a datagram arrives at a socket with a %s address", async (kind) => {
  const address = kind === "path" ? join(top, "d") : `@cofferdam-test-${process.pid}`;
  // Python, since Bun has no unix datagram sockets to receive with.
  const script = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
a = sys.argv[1]
s.bind("\\0" + a[1:] if a[0] == "@" else a)
print("ready", flush=True)
print(s.recv(100).decode())`;
  const receiver = Bun.spawn(["python3", "-c", script, address], { stdout: "pipe" });
  const reader = receiver.stdout.getReader();
  await reader.read();
  sendDatagram(address, "READY=1");
  const chunks: Uint8Array[] = [];
  for (let read = await reader.read(); read.value !== undefined; read = await reader.read())
    chunks.push(read.value);
  expect(Buffer.concat(chunks).toString().trim()).toBe("READY=1");
});

test("statfs agrees with df", () => {
  const status = statfs(top);
  const [, size] = Bun.spawnSync(["df", "-B1", "--output=size", top]).stdout.toString().trim().split("\n");
  expect(status.totalBytes).toBe(Number(size));
  expect(status.availableBytes).toBeGreaterThan(0);
  const fd = openBeneath(-100, ".", 0);
  expect(statfs(fd).totalBytes).toBeGreaterThan(0);
  closeFd(fd);
});

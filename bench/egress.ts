import { writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";
import { createAuthority } from "../test/fixtures/authority.ts";
import { freePort } from "../test/fixtures/free-port.ts";
import { until } from "../test/fixtures/until.ts";
import type { EgressEnd } from "./egress-end.ts";
import { interleaved, type Summary } from "./stats.ts";

const HOST = "host.test";
const MIB = 1024 * 1024;
const LARGE = 128 * MIB;

/** `bun bench/egress.ts`: this part alone. */
if (import.meta.main) console.table(await egress("/tmp", 200));

/**
 * What a run's connection takes more for the web proxy between: TLS from the first packet to the first byte of an answer, and a large
 * answer over one that stands; beside tinyproxy, which looks at no name, judges no address and writes no record. All have a
 * process of their own.
 */
export async function egress(work: string, rounds: number): Promise<Summary[]> {
  const authority = createAuthority();
  const server = await start({ kind: "server", bytes: LARGE, ...authority.issue(`DNS:${HOST}`) });
  const gateway = await start({ kind: "proxy", host: HOST, port: server.port });
  const plain = await startTinyproxy(work, server.port);

  /** To where bytes are the server's. */
  const ways: Record<string, () => Promise<Socket>> = {
    direct: async () => connected(server.port),
    "through the gateway": async () =>
      tunnel(gateway.port, `${HOST}:${server.port}`, `Proxy-Authorization: Bearer ${gateway.token}\r\n`),
    "through tinyproxy": async () => tunnel(plain.port, `127.0.0.1:${server.port}`, ""),
  };
  const ask = async (way: () => Promise<Socket>, path: string, bytes: number) => {
    const tls = connectTls({ socket: await way(), ca: authority.ca, servername: HOST });
    tls.write(`GET ${path} HTTP/1.1\r\nHost: ${HOST}\r\nConnection: close\r\n\r\n`);
    let came = 0;
    for await (const piece of tls) came += (piece as Buffer).length;
    if (came < bytes) throw new Error(`${came} bytes came of ${bytes}`);
  };
  const things = (what: string, path: string, bytes: number) =>
    Object.fromEntries(
      Object.entries(ways).map(([name, way]) => [`${what}: ${name}`, () => ask(way, path, bytes)]),
    );
  const rows = [
    ...(await interleaved(things("an answer of the web's, connection and TLS", "/", 2), {
      rounds,
      warmups: 20,
    })),
    ...(await interleaved(things("128 MiB of the web's", "/large", LARGE), {
      rounds: Math.max(5, Math.round(rounds / 20)),
    })),
  ];
  for (const { child } of [gateway, plain, server]) {
    child.kill();
    await child.exited;
  }
  return rows;
}

async function start(end: EgressEnd) {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "egress-end.ts"), JSON.stringify(end)], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const { value } = await child.stdout.getReader().read();
  const [port, token = ""] = new TextDecoder().decode(value).trim().split(" ");
  return { child, port: Number(port), token };
}

async function startTinyproxy(work: string, to: number) {
  const port = freePort();
  const file = join(work, "tinyproxy.conf");
  const lines = [
    `Port ${port}`,
    "Listen 127.0.0.1",
    "Allow 127.0.0.1",
    `ConnectPort ${to}`,
    "LogLevel Critical",
  ];
  writeFileSync(file, `${lines.join("\n")}\n`);
  const child = Bun.spawn(["tinyproxy", "-d", "-c", file], { stdout: "ignore", stderr: "inherit" });
  await until(async () =>
    connected(port).then(
      (socket) => !socket.destroy().connecting,
      () => false,
    ),
  );
  return { child, port };
}

async function connected(port: number): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = connect(port, "127.0.0.1", () => resolve(socket));
  socket.once("error", reject);
  return promise;
}

async function tunnel(port: number, authority: string, header: string): Promise<Socket> {
  const socket = await connected(port);
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  socket.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n${header}\r\n`);
  socket.once("data", (answer: Buffer) => {
    if (/^HTTP\/1\.[01] 200/.test(answer.toString())) resolve(socket);
    else reject(new Error(answer.toString()));
  });
  return promise;
}

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { APPLIANCE } from "../../../../src/audit/event.ts";
import { namespaceId } from "../../../../src/ids.ts";
import { startApi } from "../../../fixtures/api.ts";
import { fileClient, KEY } from "../../../fixtures/file-api.ts";
import { startFileProcess } from "../../../fixtures/file-process.ts";

/** Bun's timer has steps of four seconds. */
const IDLE_S = 8;
const IDLE = 2000;
const SLOW = 50;
const DRIP_MS = 500;
const PATIENCE_MS = 120_000;

interface Held {
  readonly socket: Socket;
  readonly closed: Promise<void>;
  readonly answered: Promise<void>;
  answer: string;
}

/** A connection that sends `start`, and then `drip` again and again. */
async function hold(port: number, start: string, drip = "", localAddress = "127.0.0.1"): Promise<Held> {
  const closed = Promise.withResolvers<void>();
  const answered = Promise.withResolvers<void>();
  const connected = Promise.withResolvers<void>();
  const socket = connect({ port, host: "127.0.0.1", localAddress }, connected.resolve);
  const held = { socket, closed: closed.promise, answered: answered.promise, answer: "" };
  const timer = setInterval(() => drip !== "" && socket.write(drip), DRIP_MS);
  socket.on("data", (data) => {
    held.answer += data.toString();
    answered.resolve();
  });
  socket.on("error", () => {});
  socket.on("close", () => {
    clearInterval(timer);
    closed.resolve();
  });
  await connected.promise;
  socket.write(start);
  return held;
}

describe("idle and slow connections", () => {
  const dir = mkdtempSync(join(tmpdir(), "cofferdam-connections-"));
  const namespace = namespaceId.make();
  let server: Awaited<ReturnType<typeof startFileProcess>>;
  const held: Held[] = [];
  beforeAll(async () => {
    server = await startFileProcess(dir, { idleS: IDLE_S });
  });
  afterAll(async () => {
    for (const { socket } of held) socket.destroy();
    await server.kill();
    rmSync(dir, { recursive: true });
  });

  test(
    `${IDLE} idle, ${SLOW} with slow heads and ${SLOW} with slow bodies hurt nobody, and end`,
    async () => {
      const { port } = server;
      const client = fileClient(port, namespace);
      expect((await client.write("kept", "kept")).status).toBe(200);
      const before = { memory: server.residentBytes(), descriptors: server.descriptors() };
      const head = `Host: x\r\nAuthorization: Bearer ${KEY}\r\nX-Namespace: ${namespace}\r\n`;

      const idle: Held[] = [];
      for (let at = 0; at < IDLE; at += 100) {
        const batch = Array.from({ length: 100 }, () =>
          hold(port, `GET /files/kept HTTP/1.1\r\n${head}\r\n`),
        );
        idle.push(...(await Promise.all(batch)));
      }
      held.push(...idle);
      await Promise.all(idle.map(({ answered }) => answered));
      const memory = server.residentBytes() - before.memory;

      const slow = await Promise.all(
        Array.from({ length: SLOW }, (_, n) => [
          // Half of them send their head on a connection that has had an answer.
          hold(
            port,
            n % 2 === 0
              ? "GET / HTTP/1.1\r\nX: "
              : `GET /files/kept HTTP/1.1\r\n${head}\r\nGET / HTTP/1.1\r\nX: `,
            "a",
          ),
          hold(port, `PUT /files/slow-${n} HTTP/1.1\r\n${head}Content-Length: 1000000\r\n\r\n`, "a"),
        ]).flat(),
      );
      held.push(...slow);
      // 128 KiB/s, for longer than a connection may be idle.
      const steady = client.put(
        "steady",
        new ReadableStream<Uint8Array>({
          async start(controller) {
            for (let sent = 0; sent < 2 * IDLE_S * 2; sent++) {
              controller.enqueue(new Uint8Array(64 * 1024));
              await Bun.sleep(500);
            }
            controller.close();
          },
        }),
      );

      const open = () => held.filter(({ socket }) => !socket.closed).length;
      let beside = 0;
      for (let call = 0; call < 50; call++) {
        expect((await client.write(`good-${call}`, "good")).status).toBe(200);
        expect(await (await client.get(`good-${call}`)).text()).toBe("good");
        if (open() === IDLE + 2 * SLOW) beside++;
      }
      // Not all of them on a machine so busy that the first were closed by then.
      expect(beside).toBeGreaterThan(0);

      await Promise.all(slow.map(({ closed }) => closed));
      await Promise.all(idle.map(({ closed }) => closed));
      expect((await steady).status).toBe(200);
      // What was not there in whole is not there at all.
      const names = readdirSync(join(dir, "volumes", namespace, "live")).toSorted();
      expect(names.filter((name) => name.startsWith("slow"))).toEqual([]);
      expect(names).toContain("steady");
      expect(readdirSync(join(dir, "volumes", namespace, "tmp"))).toEqual([]);
      expect(server.descriptors()).toBeLessThan(before.descriptors + 20);
      console.log(
        `${IDLE} idle connections: ${(memory / 1024 ** 2).toFixed(1)} MiB, ` +
          `${beside * 2} answers beside ${IDLE + 2 * SLOW} connections`,
      );
    },
    PATIENCE_MS,
  );
});

test(
  "more connections than there are descriptors for: who has the most loses some, others go on, and so does the operator",
  async () => {
    const dir = mkdtempSync(join(tmpdir(), "cofferdam-crowd-"));
    const namespace = namespaceId.make();
    const descriptors = 4096;
    const server = await startFileProcess(dir, {}, { descriptors });
    const { port } = server;
    const client = fileClient(port, namespace);
    expect((await client.write("kept", "kept")).status).toBe(200);
    const get = `GET /files/kept HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${KEY}\r\nX-Namespace: ${namespace}\r\n\r\n`;
    const others = await Promise.all([1, 2, 3].map(() => hold(port, get, "", "127.0.0.2")));
    await Promise.all(others.map(({ answered }) => answered));

    const crowd: Socket[] = [];
    const ended = { count: 0 };
    let most = 0;
    // As many again, once it has begun to lose some.
    while (crowd.length < 3 * descriptors) {
      for (let n = 0; n < 100; n++) {
        // The kernel hands a connection on with its first byte.
        const socket = connect({ port, host: "127.0.0.1" }, () => socket.write("G"));
        socket.on("error", () => {});
        socket.on("close", () => void ended.count++);
        crowd.push(socket);
      }
      await Bun.sleep(20);
      most = Math.max(most, server.descriptors());
    }
    expect(most).toBeGreaterThan(descriptors / 2);
    expect(most).toBeLessThan(descriptors);
    expect(ended.count).toBeGreaterThan(descriptors);

    // Who was there goes on, who comes now comes in, files open, and the operator is answered.
    for (const { socket } of others) socket.write(get.replace("HTTP/1.1", "HTTP/1.1\r\nConnection: close"));
    await Promise.all(others.map(({ closed }) => closed));
    for (const { answer } of others) expect(answer.match(/HTTP\/1\.1 200/g)).toHaveLength(2);
    const late = await hold(port, get, "", "127.0.0.3");
    await late.answered;
    expect(late.answer).toStartWith("HTTP/1.1 200");
    const operator = await fetch("http://admin/files/kept", {
      unix: join(dir, "admin.sock"),
      headers: client.headers,
    });
    expect(await operator.text()).toBe("kept");

    for (const socket of [...crowd, late.socket]) socket.destroy();
    await server.kill();
    rmSync(dir, { recursive: true });
  },
  PATIENCE_MS,
);

test(
  "what a call waits for is no idleness, with a body or without",
  async () => {
    const api = await startApi({ idleS: 4 });
    const { id } = await api.workspaces.create("w", APPLIANCE);
    const { apiKey: key } = await api.keys.create(
      { workspaceId: id, name: "k", scope: "workspace", namespace: null },
      APPLIANCE,
    );
    const head = `Host: x\r\nAuthorization: Bearer ${key}\r\nX-Namespace: n\r\n`;
    const waiting = await Promise.all([
      hold(api.port, `GET /slow HTTP/1.1\r\n${head}\r\n`),
      hold(api.port, `POST /slow HTTP/1.1\r\n${head}\r\n`),
      hold(api.port, `POST /slow HTTP/1.1\r\n${head}Content-Length: 0\r\n\r\n`),
      hold(api.port, `POST /slow HTTP/1.1\r\n${head}Content-Length: 2\r\n\r\n{}`),
      hold(api.port, `POST /slow HTTP/1.1\r\n${head}Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`),
    ]);
    const idle = await hold(api.port, `GET /v1/files HTTP/1.1\r\n${head}\r\n`);
    await idle.closed;
    expect(idle.answer).toStartWith("HTTP/1.1 200");
    // Another whole time, so that the waiting ones were surely due.
    await (
      await hold(api.port, `GET /v1/files HTTP/1.1\r\n${head}\r\n`)
    ).closed;
    expect(waiting.map(({ answer, socket }) => [answer, socket.closed])).toEqual(
      waiting.map(() => ["", false]),
    );
    await api.namespaces.remove(id, "n", APPLIANCE);
    await Promise.all(waiting.map(({ answered }) => answered));
    for (const { answer } of waiting) expect(answer).toStartWith("HTTP/1.1 409");
    // And after it they are idle as any other.
    await Promise.all(waiting.map(({ closed }) => closed));
    await api.stop();
    api.remove();
  },
  PATIENCE_MS,
);

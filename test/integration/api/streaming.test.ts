import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { connect } from "node:net";
import { namespaceId } from "../../../src/ids.ts";
import { fileClient } from "../../fixtures/file-api.ts";
import { startFileProcess } from "../../fixtures/file-process.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { until } from "../../fixtures/until.ts";

const MIB = 1024 * 1024;
const SIZE = 100 * MIB;

const scratch = scratchDirectory();
const id = namespaceId.make();
let server: Awaited<ReturnType<typeof startFileProcess>>;
let client: ReturnType<typeof fileClient>;

beforeAll(async () => {
  server = await startFileProcess(scratch.path);
  client = fileClient(server.port, id);
  await client.put("warm", "up");
});

afterAll(async () => {
  await server.kill();
  scratch[Symbol.dispose]();
});

const tmp = () => readdirSync(join(scratch.path, "volumes", id, "tmp"));
const live = (path: string) => join(scratch.path, "volumes", id, "live", path);
const descriptors = () => readdirSync(`/proc/${server.pid}/fd`).length;

/** `size` bytes in pieces, none of them alike. */
function pieces(size: number): ReadableStream<Uint8Array> {
  let left = size;
  return new ReadableStream({
    pull(controller) {
      const piece = new Uint8Array(Math.min(left, 256 * 1024)).fill((left / 1024) % 251);
      left -= piece.length;
      controller.enqueue(piece);
      if (left === 0) controller.close();
    },
  });
}

async function settled(check: () => boolean): Promise<void> {
  await until(check);
}

test("100 MiB go up and down with less than 64 MiB more memory", async () => {
  // Once in the small, so that what is measured is the size and not the first call.
  await client.put("big", pieces(MIB));
  const before = server.residentBytes();
  server.peakBytes();
  const hash = new Bun.CryptoHasher("sha256");
  for await (const piece of pieces(SIZE)) hash.update(piece);
  const sent = hash.digest("hex");

  const up = await client.put("big", pieces(SIZE));
  expect(await up.json()).toEqual({ path: "workspace/big", size_bytes: SIZE });
  const upPeak = server.peakBytes() - before;

  const down = await client.get("big");
  const received = new Bun.CryptoHasher("sha256");
  for await (const piece of down.body ?? []) received.update(piece);
  expect(received.digest("hex")).toBe(sent);
  const downPeak = server.peakBytes() - before;
  console.log(
    `100 MiB: ${(upPeak / MIB).toFixed(1)} MiB more memory up, ${(downPeak / MIB).toFixed(1)} MiB down`,
  );
  expect(upPeak).toBeLessThan(64 * MIB);
  expect(downPeak).toBeLessThan(64 * MIB);
}, 60_000);

test("a reader who takes its time costs no memory", async () => {
  const before = server.residentBytes();
  server.peakBytes();
  const readers = await Promise.all(
    Array.from({ length: 10 }, async () => (await client.get("big")).body!.getReader()),
  );
  await Promise.all(readers.map(async (reader) => reader.read()));
  await Bun.sleep(500);
  expect(server.peakBytes() - before).toBeLessThan(64 * MIB);
  await Promise.all(readers.map(async (reader) => reader.cancel()));
});

test("one byte more than 100 MiB is 413, announced or not", async () => {
  const chunked = await client.put("more", pieces(SIZE + 1));
  expect([chunked.status, await chunked.json()]).toEqual([
    413,
    { detail: expect.stringContaining("104857600") },
  ]);
  expect((await client.get("more")).status).toBe(404);

  // Nothing of the body is sent: the answer has to come by the header alone.
  const answer = await new Promise<string>((resolve) => {
    const socket = connect(server.port, "127.0.0.1", () => {
      socket.write(
        `PUT /files/more HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: ${client.headers.authorization}\r\n` +
          `X-Namespace: ${id}\r\nContent-Length: ${SIZE + 1}\r\n\r\n`,
      );
    });
    socket.once("data", (data) => {
      resolve(data.toString());
      socket.destroy();
    });
  });
  expect(answer).toStartWith("HTTP/1.1 413");
  expect(answer).toContain("104857600");
  // A client that sends it all the same gets to read the answer.
  const whole = await client.put("more", new Uint8Array(SIZE + 1));
  expect(whole.status).toBe(413);
  await settled(() => tmp().length === 0);
}, 60_000);

test("a client that hangs up in the middle leaves nothing", async () => {
  const before = descriptors();
  for (const encoding of ["Content-Length: 1000000", "Transfer-Encoding: chunked"]) {
    for (let round = 0; round < 10; round++) {
      await new Promise<void>((resolve) => {
        const socket = connect(server.port, "127.0.0.1", () => {
          socket.write(
            `PUT /files/hung/up HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: ${client.headers.authorization}\r\n` +
              `X-Namespace: ${id}\r\n${encoding}\r\n\r\n`,
          );
          socket.write(`${(50_000).toString(16)}\r\n${"x".repeat(50_000)}\r\n`);
          setTimeout(() => socket.destroy(), round * 3);
        });
        socket.on("error", () => {});
        socket.on("close", () => resolve());
      });
    }
  }
  await settled(() => tmp().length === 0 && descriptors() <= before);
  expect((await client.get("hung/up")).status).toBe(404);
  expect((await client.list("hung")).status).toBe(404);
}, 120_000);

test("downloads that are broken off close their files", async () => {
  await client.put("big", pieces(50 * MIB));
  const before = descriptors();
  for (let round = 0; round < 40; round++) {
    const abort = new AbortController();
    const answer = client.call("/files/big", { signal: abort.signal });
    setTimeout(() => abort.abort(), (round % 10) * 4);
    try {
      for await (const _ of (await answer).body ?? []) if (round % 3 === 0) break;
    } catch {}
  }
  const open = () => readdirSync(`/proc/${server.pid}/fd`).length;
  await settled(() => open() <= before + 1);
}, 120_000);

test("a file that shrinks while it is sent breaks the answer off", async () => {
  await client.put("shrinks", pieces(50 * MIB));
  const answer = await client.get("shrinks");
  const reader = answer.body!.getReader();
  await reader.read();
  truncateSync(live("shrinks"), MIB);
  let broken = false;
  try {
    while (!(await reader.read()).done);
  } catch {
    broken = true;
  }
  expect(broken).toBe(true);
}, 120_000);

test("the server lives through all of that", async () => {
  expect((await client.get("warm")).status).toBe(200);
});

import { expect, test } from "bun:test";
import { join } from "node:path";
import { listenForLines } from "../../../../src/protocol/lines/server.ts";
import { scratchDirectory } from "../../../fixtures/scratch.ts";

const quiet = { info() {}, warn() {}, error() {} };

test("a client that asks and never reads is cut off, and keeps nobody waiting until then", async () => {
  using scratch = scratchDirectory();
  const path = join(scratch.path, "lines.sock");
  const server = listenForLines({
    path,
    gid: 0,
    maxLineBytes: 64 * 1024,
    maxAnswerBytes: 4 * 1024 * 1024,
    allowedUids: new Set([0]),
    answer: async (line) => (line === "" ? "x".repeat(100) : `answer to ${line}`),
    onClient() {},
    log: quiet,
  });
  const cut = Promise.withResolvers<void>();
  let rest = Buffer.from("\n".repeat(200_000));
  const ask = (socket: { write(data: Uint8Array): number }) => {
    rest = rest.subarray(Math.max(0, socket.write(rest)));
  };
  const greedy = await Bun.connect({
    unix: path,
    socket: { data() {}, drain: ask, close: () => cut.resolve(), error: () => cut.resolve() },
  });
  greedy.pause();
  ask(greedy);
  const answered = Promise.withResolvers<string>();
  const other = await Bun.connect({
    unix: path,
    socket: { data: (_, chunk) => answered.resolve(chunk.toString()) },
  });
  other.write("me\n");
  expect(await answered.promise).toBe("answer to me\n");
  // A paused socket learns of its end only when it reads on.
  while (server.clients() > 1) await Bun.sleep(1);
  greedy.resume();
  await cut.promise;
  other.end();
  server.close();
  server.drop();
}, 120_000);

import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { namespaceId } from "../../../src/ids.ts";
import { AppError } from "../../../src/errors.ts";
import { allEvents, openIntents, type WireEvent } from "../../fixtures/chain.ts";
import { fileClient, startFileApi } from "../../fixtures/file-api.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";

/* What file calls leave in the audit log. */
const scratch = scratchDirectory();
const id = namespaceId.make();
let api: Awaited<ReturnType<typeof startFileApi>>;
let client: ReturnType<typeof fileClient>;
const seen = new Set<string>();

const sha256 = (text: string) => new Bun.CryptoHasher("sha256").update(text).digest("hex");

/** The events since the last call; the chain holds together and nothing is left open. */
async function fresh(): Promise<WireEvent[]> {
  const events = (await allEvents(api.db)).filter((event) => !seen.has(event.id));
  for (const event of events) seen.add(event.id);
  expect(await openIntents(api.db)).toBe(0);
  return events;
}

beforeAll(async () => {
  api = await startFileApi(scratch.path);
  client = fileClient(api.port, id);
  // The workspace's own.
  await fresh();
});
afterAll(async () => {
  await api.stop();
  scratch[Symbol.dispose]();
});

test("a write, by either call, is one event that says what was written, by whom and for which request", async () => {
  for (const write of [
    () => client.write("a/b.txt", "one"),
    () => client.put("a/b.txt", "two, longer"),
    () => client.put("a/b.txt", ""),
  ]) {
    const answer = await write();
    const { path, size_bytes } = (await answer.json()) as Record<string, unknown>;
    const content = await (await client.get("a/b.txt")).text();
    const [event, ...more] = await fresh();
    expect(more).toEqual([]);
    expect(event).toMatchObject({
      type: "file.written",
      namespace: id,
      actor_key_id: api.keyId,
      actor_local_user: null,
      source_address: "127.0.0.1",
      request_id: answer.headers.get("x-request-id"),
    });
    expect(event?.data).toEqual({ path, size_bytes, sha256: sha256(content) });
    expect(event?.settled).toBeUndefined();
  }
});

test("a deletion is one event, of a file, a link or a directory with all in it", async () => {
  for (const path of ["d/one", "d/two/three", "file"]) await client.write(path, "x");
  await fresh();
  for (const path of ["file", "d/one", "d"]) {
    const answer = await client.remove(path);
    expect(answer.status).toBe(200);
    const [event, ...more] = await fresh();
    expect(more).toEqual([]);
    expect(event).toMatchObject({ type: "file.deleted", namespace: id, actor_key_id: api.keyId });
    expect(event?.data).toEqual({ path: `workspace/${path}` });
  }
  expect(readdirSync(api.tmp(id))).toEqual([]);
});

test("what is refused, before or in its middle, has no event and leaves nothing announced", async () => {
  await client.write("dir/file", "x");
  await fresh();
  const calls: [number, () => Promise<Response>][] = [
    [400, () => client.write("../a", "x")],
    [400, () => client.write("dir/", "x")],
    [409, () => client.write("dir", "x")],
    [409, () => client.put("dir/file/below", "x")],
    [422, () => client.post("/write", { path: "a" })],
    [413, () => client.call("/files/a", { method: "PUT", body: new Uint8Array(100 * 1024 * 1024 + 1) })],
    [404, () => client.remove("none")],
    [400, () => client.remove("workspace")],
    [400, () => client.remove("dir/file/")],
    [404, () => fileClient(api.port, namespaceId.make()).remove("a")],
    [200, () => client.get("dir/file")],
    [200, () => client.list("dir")],
  ];
  for (const [status, call] of calls) expect((await call()).status).toBe(status);
  expect(await fresh()).toEqual([]);
});

test("a write whose key is revoked while it arrives has no event", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const body = new ReadableStream<Uint8Array>({
    async start(controller) {
      controller.enqueue(new Uint8Array(10));
      await promise;
    },
  });
  const answer = client.put("half", body);
  while (readdirSync(api.tmp(id)).length === 0) await Bun.sleep(1);
  api.calls.endOfKey(api.keyId, new AppError("sandbox_lost", "revoked while it ran"));
  expect((await answer).status).toBe(502);
  resolve();
  expect(await fresh()).toEqual([]);
});

test("60 writers and deleters at once: an event for each call that was acknowledged, and for no other", async () => {
  const calls = Array.from({ length: 60 }, async (_, n) => {
    if (n % 3 === 2) return { n, status: (await client.remove("many/raced")).status };
    const path = n % 3 === 0 ? "many/raced" : `many/f${n}`;
    return { n, status: (await client.write(path, String(n))).status };
  });
  const answers = await Promise.all(calls);
  const done = (rest: number) => answers.filter(({ n, status }) => n % 3 === rest && status === 200).length;
  const events = await fresh();
  const count = (type: string, path?: string) =>
    events.filter((event) => event.type === type && (path === undefined || event.data["path"] === path))
      .length;
  expect(count("file.written", "workspace/many/raced")).toBe(done(0));
  expect(count("file.written")).toBe(done(0) + done(1));
  expect(done(1)).toBe(20);
  expect(count("file.deleted")).toBe(done(2));
});

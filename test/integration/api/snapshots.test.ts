import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, openSync, readdirSync, writeFileSync, writeSync, closeSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { namespaceId } from "../../../src/ids.ts";
import { fileClient, startFileApi } from "../../fixtures/file-api.ts";
import { startFileProcess } from "../../fixtures/file-process.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { addNamespace } from "../../fixtures/snapshots.ts";
import { until } from "../../fixtures/until.ts";

const MIB = 1024 * 1024;
const scratch = scratchDirectory();
const api = await startFileApi(scratch.path);
afterAll(async () => {
  await api.stop();
  scratch[Symbol.dispose]();
});

async function newClient() {
  const id = namespaceId.make();
  await addNamespace(api.db, id);
  return { id, ...fileClient(api.port, id) };
}

const bodyOf = async (answer: Promise<Response>) => {
  const got = await answer;
  return { status: got.status, body: (await got.json()) as Record<string, unknown> };
};

test("the calls answer as the wire contract says", async () => {
  const client = await newClient();
  await client.write("a/one", "one");
  const made = await bodyOf(client.snapshot("first"));
  expect(made).toEqual({
    status: 200,
    body: {
      snapshot_id: expect.stringMatching(/^snap-[a-z2-7]{16}$/),
      namespace: client.id,
      label: "first",
      size_bytes: 3,
      stored_bytes: expect.any(Number),
      file_count: 1,
      skipped: 0,
      created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    },
  });
  const second = await bodyOf(client.call("/v1/snapshots", { method: "POST" }));
  expect(second.body).toMatchObject({ label: null, size_bytes: 3 });
  expect(await bodyOf(client.snapshots())).toEqual({
    status: 200,
    body: { snapshots: [second.body, made.body] },
  });
  const id = String(made.body["snapshot_id"]);
  await client.write("a/two", "two");
  expect(await bodyOf(client.restore(id))).toEqual({ status: 200, body: { files_restored: 1 } });
  expect((await client.get("a/two")).status).toBe(404);
  expect(await bodyOf(client.removeSnapshot(id))).toEqual({ status: 200, body: { deleted: id } });
  const gone = { status: 404, body: { detail: `The namespace has no snapshot ${JSON.stringify(id)}.` } };
  expect(await bodyOf(client.removeSnapshot(id))).toEqual(gone);
  expect(await bodyOf(client.restore(id))).toEqual(gone);
  expect(await bodyOf(client.download(id))).toEqual(gone);
});

test("what nothing was ever written in has an empty list, and an empty snapshot can be made of it", async () => {
  const client = await newClient();
  expect(await bodyOf(client.snapshots())).toEqual({ status: 200, body: { snapshots: [] } });
  const made = await bodyOf(client.snapshot());
  expect(made.body).toMatchObject({ size_bytes: 0, file_count: 0 });
  await client.write("f", "f");
  expect(await bodyOf(client.restore(String(made.body["snapshot_id"])))).toMatchObject({
    body: { files_restored: 0 },
  });
  expect(await bodyOf(client.list())).toMatchObject({ body: { entries: [] } });
});

test("another namespace's snapshot is none, for every call", async () => {
  const [mine, other] = [await newClient(), await newClient()];
  await mine.write("f", "f");
  await other.write("f", "other");
  const id = String((await bodyOf(mine.snapshot())).body["snapshot_id"]);
  for (const call of [other.restore, other.removeSnapshot, other.download])
    expect((await call(id)).status).toBe(404);
  expect(await (await other.get("f")).text()).toBe("other");
  expect((await bodyOf(mine.snapshots())).body["snapshots"]).toHaveLength(1);
});

test("what can't be a label is refused, and makes nothing", async () => {
  const client = await newClient();
  for (const label of ["", "  ", "x".repeat(201), "a\nb", 7, ["x"]]) {
    const { status } = await bodyOf(client.post("/v1/snapshots", { label }));
    expect(status).toBe(422);
  }
  expect((await bodyOf(client.post("/v1/snapshots", '{"label": '))).status).toBe(400);
  expect((await bodyOf(client.snapshots())).body["snapshots"]).toEqual([]);
  expect((await bodyOf(client.snapshot("é".repeat(200)))).status).toBe(200);
});

test("a download is the files as a tar.gz, with a name that tells what it is", async () => {
  const client = await newClient();
  await client.write("dir/f", "content of f");
  const id = String((await bodyOf(client.snapshot())).body["snapshot_id"]);
  const answer = await client.download(id);
  expect(answer.headers.get("content-type")).toBe("application/gzip");
  expect(answer.headers.get("content-disposition")).toBe(`attachment; filename="${client.id}-${id}.tar.gz"`);
  const to = join(scratch.path, "unpacked");
  mkdirSync(to);
  writeFileSync(`${to}.tar`, gunzipSync(await answer.bytes()));
  expect(Bun.spawnSync(["tar", "-xf", `${to}.tar`, "-C", to]).exitCode).toBe(0);
  expect(await Bun.file(join(to, "workspace/dir/f")).text()).toBe("content of f");
  const head = await client.call(`/v1/snapshots/${id}/download`, { method: "HEAD" });
  expect([head.status, await head.text()]).toEqual([200, ""]);
  const put = await client.call(`/v1/snapshots/${id}/download`, { method: "PUT" });
  expect([put.status, put.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
});

test("a client that goes away in the middle of its download leaves nothing behind", async () => {
  const client = await newClient();
  await client.put("large", crypto.getRandomValues(new Uint8Array(60 * MIB)));
  const id = String((await bodyOf(client.snapshot())).body["snapshot_id"]);
  // More than may be under way at once: if each kept its place, the last would be refused.
  for (let round = 0; round < 4; round++) {
    const controller = new AbortController();
    const answer = await client.call(`/v1/snapshots/${id}/download`, { signal: controller.signal });
    await answer.body?.getReader().read();
    controller.abort();
  }
  const whole = await client.download(id);
  expect(gunzipSync(await whole.bytes()).length).toBeGreaterThan(60 * MIB);
  // Nor does anything hold its blobs.
  await client.removeSnapshot(id);
  await until(async () => {
    await api.snapshots.tidy.all();
    // A directory goes with its last blob.
    const dir = join(scratch.path, "blobs", client.id);
    const left = existsSync(dir) ? readdirSync(dir, { recursive: true, withFileTypes: true }) : [];
    return left.every((one) => one.isDirectory());
  });
});

test("deleting a snapshot that is being downloaded does not spoil the download", async () => {
  const client = await newClient();
  const content = crypto.getRandomValues(new Uint8Array(40 * MIB));
  await client.put("large", content);
  const id = String((await bodyOf(client.snapshot())).body["snapshot_id"]);
  const answer = await client.download(id);
  const reader = answer.body!.getReader();
  const pieces = [(await reader.read()).value ?? new Uint8Array()];
  expect((await client.removeSnapshot(id)).status).toBe(200);
  await api.snapshots.tidy.idle();
  for (let next = await reader.read(); !next.done; next = await reader.read()) pieces.push(next.value);
  const tar = gunzipSync(Buffer.concat(pieces));
  expect(tar.includes(content.subarray(39 * MIB))).toBe(true);
});

test("neither a snapshot, nor a restore, nor a download of much takes much memory", async () => {
  using own = scratchDirectory();
  const server = await startFileProcess(own.path);
  const id = namespaceId.make();
  const client = fileClient(server.port, id);
  await client.write("first", "makes the namespace");
  const live = join(own.path, "volumes", id, "live");
  // As a command would write it.
  const fd = openSync(join(live, "huge"), "w");
  const total = 512 * MIB;
  for (let at = 0; at < total; at += 8 * MIB) writeSync(fd, crypto.getRandomValues(new Uint8Array(8 * MIB)));
  closeSync(fd);
  const before = server.residentBytes();
  server.peakBytes();
  const snapshot = String((await bodyOf(client.snapshot())).body["snapshot_id"]);
  const grown = { snapshot: server.peakBytes() - before, download: 0, restore: 0 };
  const reader = (await client.download(snapshot)).body!.getReader();
  let size = 0;
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    size += next.value.length;
    // Slower than it could be: what is not taken must not pile up.
    if (size % 16 === 0) await Bun.sleep(1);
  }
  grown.download = server.peakBytes() - before;
  expect((await client.restore(snapshot)).status).toBe(200);
  grown.restore = server.peakBytes() - before;
  await server.kill();
  console.log(
    Object.fromEntries(
      Object.entries(grown).map(([what, bytes]) => [what, `${Math.round(bytes / MIB)} MiB`]),
    ),
  );
  expect(size).toBeGreaterThan(total);
  for (const bytes of Object.values(grown)) expect(bytes).toBeLessThan(300 * MIB);
}, 120_000);

test("a client that hangs up has its snapshot and its restore all the same", async () => {
  const client = await newClient();
  const random = crypto.getRandomValues(new Uint8Array(16 * MIB).subarray(0, 65536));
  for (let n = 0; n < 12; n++) {
    const content = Buffer.alloc(4 * MIB, Buffer.concat([Buffer.of(n), random]));
    await client.call(`/files/f${n}`, { method: "PUT", body: content });
  }
  const hangUp = async (path: string, body?: string) =>
    client
      .call(path, { method: "POST", ...(body !== undefined && { body }), signal: AbortSignal.timeout(10) })
      .then(
        () => "answered",
        (error: Error) => error.name,
      );
  const list = async () => (await bodyOf(client.snapshots())).body["snapshots"] as { snapshot_id: string }[];
  expect(await hangUp("/v1/snapshots")).toBe("TimeoutError");
  const [made] = await until(async () => ((await list()).length > 0 ? list() : null));
  await client.write("f0", "later");
  expect(await hangUp(`/v1/snapshots/${made?.snapshot_id}/restore`)).toBe("TimeoutError");
  await until(async () => (await (await client.get("f0")).arrayBuffer()).byteLength === 4 * MIB);
});

import { afterAll, beforeAll, expect, test } from "bun:test";
import { closeSync, constants, openSync, readSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { AppError } from "../../../src/errors.ts";
import { runId } from "../../../src/ids.ts";
import { KEY, startRunLogsApi } from "../../fixtures/run-logs-api.ts";
import { scratchDirectory } from "../../fixtures/scratch.ts";
import { readEvents } from "../../fixtures/sse.ts";
import { until } from "../../fixtures/until.ts";

const scratch = scratchDirectory();
let api: ReturnType<typeof startRunLogsApi>;

beforeAll(() => {
  api = startRunLogsApi(scratch.path, { maxBytes: () => 512 * 1024, idleMs: 50 }, 300);
});
afterAll(async () => {
  await api.stop();
  scratch[Symbol.dispose]();
});

interface Data {
  readonly seq: number;
  readonly at: string;
  readonly text: string;
  readonly text_base64?: string;
  readonly dropped_bytes?: number;
}

const dataOf = ({ messages }: ReturnType<typeof readEvents>): Data[] =>
  messages.map(({ data }) => JSON.parse(data) as Data);

test("a run's output is followed to its end, and read again from any entry on", async () => {
  const { run, out, err, end } = api.begin();
  const response = await api.call(`${run}/logs?follow`);
  expect(response.headers.get("content-type")).toBe("text/event-stream");
  const live = readEvents(response);
  out("one\n");
  await live.until(() => live.messages.length === 1);
  err("tw\u0085o\n");
  await live.until(() => live.messages.length === 2);
  await live.until(() => live.comments.includes("heartbeat"));
  out("three");
  end();
  await api.end(run);
  await live.ending;
  expect(live.failures).toEqual([]);
  expect(live.messages.map(({ id, event }) => [id, event])).toEqual([
    ["1", "stdout"],
    ["2", "stderr"],
    ["3", "stdout"],
  ]);
  // What is text is told once.
  expect(dataOf(live)).toEqual(
    ["one\n", "tw\u0085o\n", "three"].map((text, n) => ({ seq: n + 1, at: expect.any(String), text })),
  );
  for (const { at } of dataOf(live)) expect(at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);

  const rest = async (path: string, headers: Record<string, string> = {}) => {
    const read = readEvents(await api.call(path, { headers }));
    await read.ending;
    return dataOf(read);
  };
  expect(await rest(`${run}/logs`)).toEqual(dataOf(live));
  expect(await rest(`${run}/logs?since=1`)).toEqual(dataOf(live).slice(1));
  // Of an EventSource that came back, whose URL is the first one's.
  expect(await rest(`${run}/logs?since=1&follow=true`, { "last-event-id": "2" })).toEqual(
    dataOf(live).slice(2),
  );
  expect(await rest(`${run}/logs?since=3`)).toEqual([]);
  // What it needs to hear to stay away.
  const headers = { "last-event-id": "3" };
  expect((await api.call(`${run}/logs?follow=true`, { headers })).status).toBe(204);
  const plain = await api.call(`${run}/logs`, { headers: { accept: "text/plain" } });
  expect(plain.headers.get("content-type")).toBe("text/plain; charset=utf-8");
  expect(await plain.text()).toBe("one\ntw\u0085o\nthree");
});

test("bytes stay what they were, and as text they are valid", async () => {
  const { run, out, end } = api.begin();
  const bytes = Buffer.from(crypto.getRandomValues(new Uint8Array(60_000)));
  bytes.set([0xef, 0xbb, 0xbf, 0, 0xff]);
  out(bytes);
  end();
  await api.end(run);
  const plain = await api.call(`${run}/logs?follow=1`, { headers: { accept: "text/plain" } });
  expect(Buffer.from(await plain.arrayBuffer()).equals(bytes)).toBe(true);
  const read = readEvents(await api.call(`${run}/logs`));
  await read.ending;
  const text = dataOf(read).map((one) => one.text);
  expect(text.join("")).toBe(new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes));
  expect(text[0]?.startsWith("\ufeff\0\ufffd")).toBe(true);
  const exact = dataOf(read).map((one) => Uint8Array.fromBase64(one.text_base64 ?? ""));
  expect(Buffer.concat(exact).equals(bytes)).toBe(true);
});

test("what is not kept any more is said, and where to go on", async () => {
  const { run, out, end, waiting } = api.begin();
  for (let n = 0; n < 100; n++) {
    out(Buffer.alloc(10_000, "x"));
    if (n % 10 === 0) await until(() => waiting() === 0);
  }
  end();
  await api.end(run);
  const read = readEvents(await api.call(`${run}/logs?since=1`));
  await read.ending;
  const [gap, next] = dataOf(read);
  expect(read.messages[0]?.event).toBe("status");
  expect(gap?.text).toContain("not kept any more");
  expect(next?.seq).toBe((gap?.seq ?? 0) + 1);
  const plain = await api.call(`${run}/logs`, { headers: { accept: "text/plain" } });
  const kept = (await plain.text()).length;
  expect(Number(plain.headers.get("x-dropped-bytes"))).toBe(1_000_000 - kept);
  expect(gap?.dropped_bytes).toBe(1_000_000 - kept);
  expect(kept).toBeLessThanOrEqual(512 * 1024);
  expect(kept).toBeGreaterThan(256 * 1024);
});

test("a client that reads nothing holds up neither the run nor another client", async () => {
  using scratch = scratchDirectory();
  const api = startRunLogsApi(scratch.path, { maxBytes: () => 64 * 1024 * 1024 });
  const { run, out, end, waiting } = api.begin();
  const head = `GET /v1/runs/${run}/logs?follow HTTP/1.1\r\nhost: abc\r\nauthorization: Bearer ${KEY}\r\nx-namespace: own\r\n\r\n`;
  const stuck = Array.from({ length: 20 }, () => connect(api.port, "127.0.0.1").pause());
  for (const socket of stuck) socket.write(head);
  // Its head comes with the first bytes.
  const reading = api
    .call(`${run}/logs?follow`, { headers: { accept: "text/plain" } })
    .then((live) => live.arrayBuffer());
  await Bun.sleep(50);
  // More than the kernel's buffers of a connection hold.
  const rounds = 300;
  const bytes = Buffer.from(crypto.getRandomValues(new Uint8Array(60_000)));
  for (let n = 0; n < rounds; n++) {
    await until(() => waiting() < 100_000);
    out(bytes);
  }
  end();
  await api.end(run);
  const got = Buffer.from(await reading);
  expect(got.length).toBe(rounds * bytes.length);
  for (const socket of stuck) {
    expect(socket.bytesRead).toBeLessThan(rounds * bytes.length);
    socket.destroy();
  }
  await api.stop();
});

test("a run that has not begun is waited for, and one that never will ends the stream", async () => {
  const run = runId.make();
  api.set(run, "preparing");
  const live = readEvents(await api.call(`${run}/logs?follow`));
  await live.until(() => live.comments.length > 2);
  expect(live.ended).toBe(false);
  api.set(run, "cancelled");
  api.output.finish(run);
  await live.ending;
  expect(live.messages).toEqual([]);
});

test("HEAD has no body, other methods are refused, and so is what is wrong or another's", async () => {
  const { run, end } = api.begin();
  const head = await api.call(`${run}/logs?follow`, { method: "HEAD" });
  expect([head.status, head.headers.get("content-type"), await head.text()]).toEqual([
    200,
    "text/event-stream",
    "",
  ]);
  expect((await api.call(`${run}/logs`, { method: "POST" })).status).toBe(405);
  expect((await api.call(`${run}/logs?since=-1`)).status).toBe(422);
  expect((await api.call(`${run}/logs?follow=maybe`)).status).toBe(422);
  expect((await api.call(`${run}/logs`, { headers: { "last-event-id": "evt-x" } })).status).toBe(422);
  const never = await api.call(`run-aaaaaaaaaa/logs`);
  const foreign = await api.call(`${run}/logs`, { namespace: "other" });
  expect([never.status, foreign.status]).toEqual([404, 404]);
  expect((await api.call(`${run}/logs`, { headers: { authorization: "Bearer x" } })).status).toBe(401);
  end();
});

test("revoking the key ends its streams", async () => {
  const { run, end } = api.begin();
  const live = readEvents(await api.call(`${run}/logs?follow`));
  await live.until(() => live.comments.length > 0);
  api.calls.endOfKey(api.keyId, new AppError("unauthenticated", "revoked"));
  await live.ending;
  end();
});

test("a run is fed by calls, which say what was taken when it does not read", async () => {
  const { run, end } = api.begin();
  const fd = openSync(join(api.instance.sockets.runs, run, "in"), constants.O_RDWR | constants.O_NONBLOCK);
  const post = (query: string, body: string | Uint8Array) =>
    api.call(`${run}/stdin${query}`, { method: "POST", body });
  const read = () => {
    const bytes = Buffer.alloc(300_000);
    return bytes.subarray(0, readSync(fd, bytes)).toString("latin1");
  };
  // Its row says already that it runs, and the init would pass over what comes before the launch.
  const early = post("", "hello");
  await Bun.sleep(100);
  await api.input.launch(run, { argv: ["cat"], env: {}, cwd: "/", stdin: true, processes: 9, fileBytes: 9 });
  const first = await early;
  expect([first.status, await first.json()]).toEqual([200, { written: 5, eof: false }] as never);
  expect(read()).toMatch(new RegExp(`^R\\0\\0L[^]*G\\0\\0D\\r\\0${"\xff".repeat(8)}hello$`));

  const full = await post("", new Uint8Array(200_000));
  const told = (await full.json()) as { detail: string; written: number };
  expect([full.status, full.headers.get("retry-after")]).toEqual([503, "5"]);
  expect(told.written).toBeGreaterThan(10_000);
  expect(told.detail).toContain("does not read its stdin");
  expect((await post("", new Uint8Array(1024 * 1024 + 1))).status).toBe(413);

  read();
  const whole = new Uint8Array(told.written);
  const noEnd = await post("?eof=true", whole);
  expect([noEnd.status, ((await noEnd.json()) as typeof told).written]).toEqual([503, whole.length]);
  read();
  for (const eof of ["?eof=true", "?eof=true"]) {
    const ended = await post(eof, "");
    expect([ended.status, await ended.json()]).toEqual([200, { written: 0, eof: true }] as never);
    expect(read()).toBe("E\0\0");
  }
  for (const query of ["", "?eof=true"]) expect((await post(query, "more")).status).toBe(409);

  closeSync(fd);
  end();
  await api.end(run);
  expect((await post("", "x")).status).toBe(409);
  const closed = runId.make();
  api.set(closed, "running", "none");
  expect((await api.call(`${closed}/stdin`, { method: "POST", body: "x" })).status).toBe(409);
});

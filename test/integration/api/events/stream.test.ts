import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { APPLIANCE } from "../../../../src/audit/event.ts";
import { createEventStreams } from "../../../../src/api/events/stream.ts";
import { createEventReader } from "../../../../src/audit/reader.ts";
import { createLog } from "../../../../src/log.ts";
import { startApi, type TestApi } from "../../../fixtures/api.ts";
import { draftOf, startTenant } from "../../../fixtures/log.ts";
import { startLedger } from "../../../fixtures/ledger.ts";
import { readEvents } from "../../../fixtures/sse.ts";
import { until } from "../../../fixtures/until.ts";

type Tenant = Awaited<ReturnType<typeof startTenant>>;

let api: TestApi;
let tenant: Tenant;
const opened: ReturnType<typeof readEvents>[] = [];

beforeAll(async () => {
  api = await startApi();
  tenant = await startTenant(api);
});
afterAll(async () => {
  for (const stream of opened) await stream.close();
  await api.stop();
  api.remove();
});

const request = (query: string, key: string, headers: Record<string, string> = {}, ws: string = tenant.ws) =>
  api.call(`/v1/workspaces/${ws}/webhooks/stream${query}`, { key, headers });

/** An open stream that has said so. */
async function listen(query = "", key = tenant.keys.admin.apiKey, headers: Record<string, string> = {}) {
  const answer = await request(query, key, headers);
  expect([answer.status, answer.headers.get("content-type")]).toEqual([200, "text/event-stream"]);
  const stream = readEvents(answer);
  opened.push(stream);
  await stream.until(() => stream.messages.length > 0);
  return stream;
}

const append = (first: number, count: number, over: Parameters<typeof draftOf>[2] = {}) =>
  api.ledger.append(Array.from({ length: count }, (_, index) => draftOf(tenant.ws, first + index, over)));

const numbers = (stream: ReturnType<typeof readEvents>) => stream.events().map(({ data }) => data.n);
const range = (first: number, count: number) => Array.from({ length: count }, (_, index) => first + index);

describe("the wire", () => {
  test("bare line feeds, connected first, one line of data for each event, a blank line after", async () => {
    const stream = await listen();
    expect(stream.text).toBe('data: {"type":"connected"}\n\n');
    const [stored] = await append(1, 1);
    await stream.until(() => stream.messages.length === 2);
    expect(stream.text.slice('data: {"type":"connected"}\n\n'.length)).toBe(
      `id: ${stored!.id}\ndata: ${stored!.body}\n\n`,
    );
    expect(stream.text).not.toContain("\r");
    expect(stream.messages[1]).toEqual({ id: stored!.id, data: stored!.body, event: undefined });
    await stream.close();
  });

  test("what some readers take for the end of a line stays inside its event", async () => {
    const stream = await listen();
    const text = "a\u0085b\u2028c\u2029d\re\nf\u000bg\u001ch";
    await append(2, 1, { data: { n: 2, text } });
    await stream.until(() => stream.messages.length === 2);
    // As the SDK does it; only ASCII is left of what Python's splitlines splits at.
    for (const character of "\u0085\u2028\u2029\r\u000b\u001c") expect(stream.text).not.toContain(character);
    expect(stream.events()[0]!.data).toEqual({ n: 2, text } as never);
    expect(stream.failures).toEqual([]);
    await stream.close();
  });

  test("only GET, and a query that makes sense", async () => {
    const head = await api.call(`/v1/workspaces/${tenant.ws}/webhooks/stream`, {
      key: tenant.keys.admin.apiKey,
      method: "HEAD",
    });
    expect(head.status).toBe(405);
    expect((await request("?since=soon", tenant.keys.admin.apiKey)).status).toBe(422);
    expect((await request("?types=", tenant.keys.admin.apiKey)).status).toBe(422);
  });
});

describe("who gets what", () => {
  test("each gets what it may have and asked for, in order", async () => {
    const { admin, unlocked, locked } = tenant.keys;
    const all = await listen();
    const own = await listen("", locked.apiKey);
    const named = await listen("?namespace=existing", unlocked.apiKey);
    const typed = await listen("?types=exec.completed,snapshot.created");
    const operator = readEvents(await api.admin(`/v1/workspaces/${tenant.ws}/webhooks/stream?namespace=own`));
    const appliance = readEvents(await api.admin("/admin/events/stream"));
    await operator.until(() => operator.messages.length === 1);
    await appliance.until(() => appliance.messages.length === 1);
    await append(10, 1);
    await append(11, 1, { namespace: "existing" });
    await append(12, 1, { type: "exec.completed", namespace: null });
    await api.ledger.append([draftOf("appliance", 13)]);
    await append(14, 1, { type: "exec.completed" });
    const counts = [
      [all, 4],
      [own, 2],
      [named, 1],
      [typed, 2],
      [operator, 2],
      [appliance, 1],
    ] as const;
    for (const [stream, count] of counts) await stream.until(() => numbers(stream).length === count);
    // What is one too many would have come by now.
    await Bun.sleep(50);
    expect(numbers(all)).toEqual([10, 11, 12, 14]);
    expect(numbers(own)).toEqual([10, 14]);
    expect(numbers(named)).toEqual([11]);
    expect(numbers(typed)).toEqual([12, 14]);
    expect(numbers(operator)).toEqual([10, 14]);
    expect(numbers(appliance)).toEqual([13]);
    // The numbers tell how much happens elsewhere.
    expect(own.events().some((event) => "seq" in event)).toBe(false);
    expect(all.events().every((event) => "seq" in event)).toBe(true);
    expect(admin.scope).toBe("admin");
    for (const stream of [all, own, named, typed, operator, appliance]) await stream.close();
  });

  test("refusals are those of the events call", async () => {
    const { admin, unlocked, locked } = tenant.keys;
    const foreign = await startTenant(api);
    const wanted: [number, string, string, string?][] = [
      [403, "", unlocked.apiKey],
      [403, "?namespace=existing", locked.apiKey],
      [403, "?namespace=nothing", locked.apiKey],
      [403, "", admin.apiKey, foreign.ws],
      [403, "?namespace=own", locked.apiKey, foreign.ws],
      [401, "", `trove-sk-${"A".repeat(48)}`],
    ];
    for (const [status, query, key, ws] of wanted) {
      expect((await request(query, key, {}, ws)).status).toBe(status);
    }
  });
});

describe("resuming", () => {
  test("what was missed comes first, then what happens, without a gap and none twice, while writers write", async () => {
    const before = await listen();
    await append(100, 5);
    await before.until(() => numbers(before).length === 5);
    const last = before.messages.at(-1)!.id!;
    await before.close();
    await append(105, 400);
    let written = 505;
    const writer = { on: true };
    const writes = (async () => {
      while (writer.on) {
        await append(written, 3);
        written += 3;
      }
    })();
    const resumed = await Promise.all(
      Array.from({ length: 5 }, async (_, n) => {
        await Bun.sleep(n * 7);
        return listen("", tenant.keys.admin.apiKey, { "last-event-id": last });
      }),
    );
    await Bun.sleep(200);
    writer.on = false;
    await writes;
    for (const stream of resumed) {
      await stream.until(() => numbers(stream).at(-1) === written - 1);
      expect(numbers(stream)).toEqual(range(105, written - 105));
      expect(stream.messages.every(({ event }) => event === undefined)).toBe(true);
      await stream.close();
    }
  }, 120_000);

  test("a client that is cut again and again gets every event once", async () => {
    const start = 10_000;
    let written = start;
    const writer = { on: true };
    const first = await listen();
    const writes = (async () => {
      while (writer.on) {
        await append(written, 2);
        written += 2;
        await Bun.sleep(1);
      }
    })();
    const got: number[] = [];
    let last = "";
    let stream = first;
    for (let round = 0; round < 15; round++) {
      const seen = numbers(stream).length;
      await stream.until(() => numbers(stream).length > seen + round);
      await stream.close();
      got.push(...numbers(stream));
      last = stream.messages.at(-1)!.id!;
      stream = await listen("", tenant.keys.admin.apiKey, { "last-event-id": last });
    }
    writer.on = false;
    await writes;
    // It may have had all of them by then.
    await append(written++, 1);
    await stream.until(() => numbers(stream).at(-1) === written - 1);
    got.push(...numbers(stream));
    expect(got).toEqual(range(start, written - start));
    await stream.close();
  }, 120_000);

  test("since begins after a time", async () => {
    const [one, two] = await append(700, 2);
    const stream = await listen(`?since=${(JSON.parse(one!.body) as { created_at: string }).created_at}`);
    await stream.until(() => numbers(stream).length === 1);
    expect(stream.events()[0]!.id).toBe(two!.id);
    await append(702, 1);
    await stream.until(() => numbers(stream).length === 2);
    expect(numbers(stream)).toEqual([701, 702]);
    await stream.close();
  });

  test("an id that the log does not have, or another workspace's: it says from when, and all there is follows", async () => {
    const fresh = await startTenant(api);
    await api.ledger.append([draftOf(fresh.ws, 1), draftOf(fresh.ws, 2)]);
    const kept = (await fresh.page({ namespace: "own" })).events.length;
    const [elsewhere] = await append(800, 1);
    for (const id of ["evt-aaaaaaaaaaaaaaaaaaaa", "nonsense", elsewhere!.id]) {
      const answer = await request("", fresh.keys.locked.apiKey, { "last-event-id": id }, fresh.ws);
      const stream = readEvents(answer);
      await stream.until(() => stream.events().length === kept);
      expect(stream.messages[1]).toMatchObject({ event: "lagged" });
      const { since } = JSON.parse(stream.messages[1]!.data) as { since: string };
      expect(since < stream.events()[0]!.created_at).toBe(true);
      expect(numbers(stream).slice(-2)).toEqual([1, 2]);
      await stream.close();
    }
  });

  test("what retention has cut is said, where it was in between", async () => {
    const fresh = await startTenant(api);
    const stored = await api.ledger.append(range(0, 10).map((n) => draftOf(fresh.ws, n)));
    const since = (JSON.parse(stored[1]!.body) as { created_at: string }).created_at;
    const cut = stored[4]!.createdAt;
    const sql = (text: string, ...args: (string | number)[]) => api.db.$client.execute({ sql: text, args });
    await sql("DELETE FROM events WHERE chain = ? AND created_at <= ?", fresh.ws, cut);
    await sql("INSERT INTO checkpoints VALUES (?, 5, ?, 'h', 0, 's')", fresh.ws, cut);
    const read = async (query: string, headers = {}) => {
      const stream = readEvents(await request(query, fresh.keys.admin.apiKey, headers, fresh.ws));
      await stream.until(() => numbers(stream).at(-1) === 9);
      await stream.close();
      return stream;
    };
    for (const stream of [
      await read(`?since=${since}`),
      await read("", { "last-event-id": stored[1]!.id }),
    ]) {
      expect(stream.messages.map(({ event }) => event).slice(0, 3)).toEqual([undefined, "lagged", undefined]);
      expect(numbers(stream)).toEqual([5, 6, 7, 8, 9]);
    }
    // The control: nothing is missing after the cut.
    const whole = await read("", { "last-event-id": stored[5]!.id });
    expect(whole.messages.every(({ event }) => event === undefined)).toBe(true);
    expect(numbers(whole)).toEqual([6, 7, 8, 9]);
  });
});

async function settled(streams: number): Promise<void> {
  await until(() => api.streams.size === streams);
}

describe("ends", () => {
  test("a revoked key's stream ends at once, and another's goes on", async () => {
    const key = await api.keys.create(
      { workspaceId: tenant.ws, name: "brief", scope: "admin", namespace: null },
      APPLIANCE,
    );
    const doomed = await listen("", key.apiKey);
    const other = await listen();
    await api.keys.revoke(tenant.ws, key.id, APPLIANCE);
    await doomed.until(() => doomed.ended);
    await append(900, 1);
    await other.until(() => numbers(other).includes(900));
    expect(numbers(doomed)).not.toContain(900);
    expect((await request("", key.apiKey)).status).toBe(401);
    await other.close();
  });

  test("a client that hangs up leaves nothing behind", async () => {
    await settled(0);
    const streams = await Promise.all(range(0, 10).map(() => listen()));
    expect(api.streams.size).toBe(10);
    for (const stream of streams) await stream.close();
    await settled(0);
  });

  test("one key has 32 at once; the next is told to wait, and another key is not", async () => {
    const key = await api.keys.create(
      { workspaceId: tenant.ws, name: "many", scope: "admin", namespace: null },
      APPLIANCE,
    );
    const streams = await Promise.all(range(0, 32).map(() => listen("", key.apiKey)));
    const refused = await request("", key.apiKey);
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([429, "10"]);
    expect(await refused.json()).toEqual({ detail: expect.stringContaining("32 event streams of this key") });
    await (await listen()).close();
    await streams[0]!.close();
    const again = await until(async () => {
      const answer = await request("", key.apiKey);
      return answer.status !== 429 && answer;
    });
    expect(again.status).toBe(200);
    await again.body!.cancel();
    for (const stream of streams) await stream.close();
  });

  test("when the api stops, streams end and it does not wait for them", async () => {
    const own = await startApi();
    const { ws, keys } = await startTenant(own);
    const stream = readEvents(
      await own.call(`/v1/workspaces/${ws}/webhooks/stream`, { key: keys.admin.apiKey }),
    );
    const slow = readEvents(
      await own.call(`/v1/workspaces/${ws}/webhooks/stream?since=2020-01-01`, { key: keys.admin.apiKey }),
    );
    await stream.until(() => stream.messages.length === 1);
    await slow.until(() => slow.messages.length > 3);
    const start = performance.now();
    await own.stop(20_000);
    expect(performance.now() - start).toBeLessThan(10_000);
    await stream.until(() => stream.ended);
    expect([...stream.failures, ...slow.failures]).toEqual([]);
    own.remove();
  }, 120_000);
});

describe("a reader that stops reading", () => {
  /** A client that reads nothing until it is told to. */
  async function stuck(
    key: string,
    query = "",
    { port, ws }: { port: number; ws: string } = { port: api.port, ws: tenant.ws },
  ) {
    const socket = connect(port, "127.0.0.1");
    let text = "";
    let ended = false;
    socket.on("data", (data) => void (text += data.toString()));
    socket.on("close", () => void (ended = true));
    socket.on("error", () => {});
    socket.write(
      `GET /v1/workspaces/${ws}/webhooks/stream${query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${key}\r\n\r\n`,
    );
    while (!text.includes("connected")) await Bun.sleep(5);
    socket.pause();
    return {
      get text() {
        return text;
      },
      get ended() {
        return ended;
      },
      resume: () => socket.resume(),
      destroy: () => socket.destroy(),
    };
  }

  test("is cut with a last block that says from when, costs little, and can go on without a gap", async () => {
    const client = await stuck(tenant.keys.admin.apiKey);
    const healthy = await listen("?types=file.written");
    const text = "x".repeat(2000);
    const COUNT = 12_000;
    // 30 MB in all, several times what the kernel's buffers take.
    for (let n = 0; n < COUNT; n += 100) await append(20_000 + n, 100, { data: { n: 0, text } });
    const [last] = await append(20_000 + COUNT, 1);
    await healthy.until(() => healthy.messages.at(-1)?.id === last!.id, 60);
    expect(healthy.events().length).toBe(COUNT + 1);

    client.resume();
    await until(() => client.text.includes("event: lagged"));
    const [, data] = /event: lagged\ndata: (.*)\n\n/.exec(client.text)!;
    const { type, since } = JSON.parse(data!) as { type: string; since: string };
    expect(type).toBe("lagged");
    // Nothing follows it but the end of the answer.
    expect(client.text.slice(client.text.indexOf(data!) + data!.length).replaceAll(/[\r\n0]/g, "")).toBe("");
    const ids = [...client.text.matchAll(/^id: (evt-\S+)$/gm)].map(([, id]) => id!);
    expect(ids.length).toBeGreaterThan(0);
    expect(ids.length).toBeLessThan(COUNT);

    // From there on, by time or by id, all the rest and nothing twice.
    const all = healthy.events().map(({ id }) => id);
    for (const [query, headers] of [
      [`?since=${since}&types=file.written`, {}],
      ["?types=file.written", { "last-event-id": ids.at(-1)! }],
    ] as const) {
      const rest = await listen(query, tenant.keys.admin.apiKey, headers);
      await rest.until(() => rest.messages.at(-1)?.id === last!.id, 60);
      expect([...ids, ...rest.events().map(({ id }) => id)]).toEqual(all);
      await rest.close();
    }
    client.destroy();
    await healthy.close();
  }, 180_000);

  test("is hung up on when it takes nothing for as long as a connection may be idle", async () => {
    const brief = await startApi({ idleS: 2 });
    const { ws, keys } = await startTenant(brief);
    const client = await stuck(keys.admin.apiKey, "", { port: brief.port, ws });
    expect(brief.streams.size).toBe(1);
    const data = { n: 0, text: "x".repeat(20_000) };
    for (let n = 0; n < 10; n++) await brief.ledger.append(range(0, 100).map(() => draftOf(ws, 0, { data })));
    await until(() => brief.streams.size === 0);
    client.destroy();
    await brief.stop();
    brief.remove();
  }, 120_000);

  test("twenty of them cost no more memory than a few buffers", async () => {
    const clients = await Promise.all(
      range(0, 20).map(() => stuck(tenant.keys.unlocked.apiKey, "?namespace=own")),
    );
    const text = "x".repeat(2000);
    await append(50_000, 100, { data: { n: 0, text } });
    Bun.gc(true);
    const before = process.memoryUsage().rss;
    // 24 MB, which for each of them would be 480.
    for (let n = 0; n < 10_000; n += 100) await append(51_000 + n, 100, { data: { n: 0, text } });
    Bun.gc(true);
    expect(process.memoryUsage().rss - before).toBeLessThan(200 * 1024 * 1024);
    for (const client of clients) client.destroy();
    await settled(0);
  }, 60_000);
});

test("heartbeats keep a silent stream alive", async () => {
  const started = await startLedger();
  const { ledger } = started;
  const limits = { heartbeatMs: 50 };
  const streams = createEventStreams({
    reader: createEventReader(started),
    ledger,
    log: createLog("test", () => {}),
    limits,
  });
  const filter = { chain: "appliance", namespace: null, types: null, lockedSince: null } as const;
  const { response } = streams.open(null, filter, { kind: "now" }, new AbortController().signal);
  const stream = readEvents(response);
  await stream.until(() => stream.comments.length >= 3);
  expect(stream.text.replaceAll(": heartbeat\n\n", "")).toBe('data: {"type":"connected"}\n\n');
  await ledger.append([draftOf("appliance", 1)]);
  await stream.until(() => numbers(stream).length === 1);
  expect(stream.messages.length).toBe(2);
  streams.close();
  await stream.ending;
  await started.close();
});

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { APPLIANCE } from "../../../../src/audit/event.ts";
import { startApi, type TestApi } from "../../../fixtures/api.ts";
import { draftOf, startTenant, type Page, type Shown } from "../../../fixtures/log.ts";
import { readEvents } from "../../../fixtures/sse.ts";

type Tenant = Awaited<ReturnType<typeof startTenant>>;

let api: TestApi;
let tenant: Tenant;
let foreign: Tenant;

beforeAll(async () => {
  api = await startApi();
  tenant = await startTenant(api);
  foreign = await startTenant(api);
});
afterAll(async () => {
  await api.stop();
  api.remove();
});

const numbers = (events: readonly Shown[]) => events.map(({ data }) => data.n);

const events = (query: string, key: string, ws: string = tenant.ws) =>
  api.call(`/v1/workspaces/${ws}/events${query}`, { key });

/** Status and sentence. */
async function refusal(answer: Promise<Response>): Promise<[number, string]> {
  const { status, json } = await answer.then(async (got) => ({ status: got.status, json: await got.json() }));
  return [status, (json as { detail: string }).detail];
}

describe("paging", () => {
  test("pages hold every event once, newest first, and the last has no cursor", async () => {
    const { ws, page } = await startTenant(api);
    const before = (await page({ limit: "1" })).events[0]!.created_at;
    await api.ledger.append(Array.from({ length: 237 }, (_, n) => draftOf(ws, n)));
    for (const limit of ["1000", "237", "100", "51", "1"]) {
      const pages: Page[] = [];
      let cursor: string | null = null;
      do {
        pages.push(await page({ since: before, limit, ...(cursor === null ? {} : { cursor }) }));
        cursor = pages.at(-1)!.next_cursor;
      } while (cursor !== null);
      expect(pages.flatMap(({ events }) => numbers(events))).toEqual(
        Array.from({ length: 237 }, (_, n) => 236 - n),
      );
      expect(pages.length).toBe(Math.ceil(237 / Number(limit)));
    }
    const times = (await page({ limit: "1000" })).events.map(({ created_at }) => created_at);
    expect(times).toEqual(times.toSorted().toReversed());
    expect(new Set(times).size).toBe(times.length);
  });

  test("an answer is what the log holds, with what the wire contract names", async () => {
    const { ws, page, keys } = await startTenant(api);
    const [stored] = await api.ledger.append([
      draftOf(ws, 1, { data: { n: 1, text: 'ä \u2028 " \\ \u0000' } }),
    ]);
    const whole = await events("?limit=1", keys.admin.apiKey, ws);
    expect(whole.headers.get("content-type")).toBe("application/json");
    expect(await whole.text()).toStartWith(`{"events":[${stored!.body}],"next_cursor":"`);
    expect((await page({ limit: "1" })).events[0]).toMatchObject({
      id: stored!.id,
      type: "file.written",
      api_version: expect.any(String),
      workspace_id: ws,
      namespace: "own",
      created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/),
      actor_key_id: null,
      data: { n: 1, text: 'ä \u2028 " \\ \u0000' },
    });
  });

  test("a page of the largest events comes whole, and others are answered meanwhile", async () => {
    const { ws, keys, page } = await startTenant(api);
    // Escaped sixfold: 30 KB each.
    const text = "\u0001".repeat(5 * 1024);
    for (let n = 0; n < 1000; n += 100) {
      await api.ledger.append(
        Array.from({ length: 100 }, (_, i) => draftOf(ws, n + i, { data: { n: n + i, text } })),
      );
    }
    const answer = await events("?limit=1000", keys.admin.apiKey, ws);
    const meanwhile = { answered: 0, done: false };
    const others = (async () => {
      while (!meanwhile.done) {
        expect((await api.call("/healthz")).status).toBe(200);
        meanwhile.answered++;
      }
    })();
    const got = (await answer.json()) as Page;
    meanwhile.done = true;
    await others;
    expect(numbers(got.events)).toEqual(Array.from({ length: 1000 }, (_, n) => 999 - n));
    expect(got.events.every(({ data }) => data.text === text)).toBe(true);
    expect(meanwhile.answered).toBeGreaterThan(1);
    // The key that reads is revoked in its middle.
    const reading = (await events("?namespace=own&limit=1000", keys.unlocked.apiKey, ws)).body!.getReader();
    await reading.read();
    await api.keys.revoke(ws, keys.unlocked.id, APPLIANCE);
    const rest = async () => {
      while (!(await reading.read()).done);
    };
    const broken = await rest().catch((error: unknown) => error);
    expect(broken).toBeInstanceOf(Error);
    expect((await page({ limit: "1" })).events[0]?.type).toBe("key.revoked");
  });
});

describe("concurrent writers", () => {
  test("polling `since` as `trove tail` does, and paging by cursor: every event exactly once", async () => {
    const { ws, page } = await startTenant(api);
    const COUNT = 1000;
    let bookmark = (await page({ limit: "1" })).events[0]!.created_at;
    const writers = { written: 0 };
    const work = Array.from({ length: 5 }, async (_, writer) => {
      for (let n = 0; n < COUNT / 5; n += 4) {
        const some = Array.from({ length: 4 }, (_, i) => draftOf(ws, writer * (COUNT / 5) + n + i));
        await api.ledger.append(some);
        writers.written += some.length;
      }
    });
    const writing = Promise.all(work);

    const tailed: Shown[] = [];
    const tail = async () => {
      // As the SDK: what is after the bookmark, oldest first, and the last of it is the next bookmark.
      for (let final = false; !final;) {
        final = writers.written === COUNT;
        const polled: Shown[] = [];
        let cursor: string | null = null;
        do {
          const next: Page = await page({
            since: bookmark,
            limit: "200",
            ...(cursor === null ? {} : { cursor }),
          });
          polled.push(...next.events);
          cursor = next.next_cursor;
        } while (cursor !== null);
        tailed.push(...polled.toReversed());
        bookmark = tailed.at(-1)?.created_at ?? bookmark;
      }
    };

    const walks: number[][] = [];
    const walk = async () => {
      do {
        const seen: Shown[] = [];
        for (let cursor: string | null = ""; cursor !== null;) {
          const next: Page = await page({
            limit: "40",
            types: "file.written",
            ...(cursor === "" ? {} : { cursor }),
          });
          seen.push(...next.events);
          cursor = next.next_cursor;
        }
        walks.push(seen.map(({ seq }) => seq!));
      } while (writers.written < COUNT && walks.length < 5);
    };

    await Promise.all([writing, tail(), walk()]);
    const order = tailed.map(({ created_at }) => created_at);
    expect(order).toEqual(order.toSorted());
    expect(numbers(tailed).toSorted((a, b) => a - b)).toEqual(Array.from({ length: COUNT }, (_, n) => n));
    // Each walk began at some newest event and then went through all older ones, one by one.
    for (const seqs of walks) {
      const [newest = 0] = seqs;
      expect(seqs).toEqual(seqs.map((_, index) => newest - index));
    }
    expect(walks.at(-1)!.length).toBeGreaterThan(100);
  }, 60_000);
});

describe("the query", () => {
  test("since is exclusive, to the microsecond, in any zone", async () => {
    const { ws, page } = await startTenant(api);
    const stored = await api.ledger.append([draftOf(ws, 1), draftOf(ws, 2), draftOf(ws, 3)]);
    const [first, second] = (await page({ limit: "3" })).events
      .toReversed()
      .map(({ created_at }) => created_at);
    expect(stored[1]!.createdAt).toBe(stored[0]!.createdAt + 1);
    expect(numbers((await page({ since: first! })).events)).toEqual([3, 2]);
    expect(numbers((await page({ since: second! })).events)).toEqual([3]);
    // As datetime.isoformat() writes it.
    expect(numbers((await page({ since: first!.replace("Z", "+00:00") })).events)).toEqual([3, 2]);
    expect((await page({ since: "2100-01-01" })).events).toEqual([]);
    // A + that nobody escaped.
    const bare = await events(`?since=${first!.replace("Z", "+00:00")}`, (await keyOf(ws)).apiKey, ws);
    const files = ((await bare.json()) as Page).events.filter(({ type }) => type === "file.written");
    expect(numbers(files)).toEqual([3, 2]);
  });

  const keyOf = (workspaceId: Tenant["ws"]) =>
    api.keys.create({ workspaceId, name: "k", scope: "admin", namespace: null }, APPLIANCE);

  test("types and namespace choose", async () => {
    const { ws, page } = await startTenant(api);
    await api.ledger.append([
      draftOf(ws, 1),
      draftOf(ws, 2, { type: "exec.completed" }),
      draftOf(ws, 3, { namespace: "existing" }),
      draftOf(ws, 4, { type: "snapshot.created", namespace: "existing" }),
    ]);
    const of = async (query: Record<string, string>) => numbers((await page(query)).events);
    expect(await of({ types: "exec.completed,snapshot.created" })).toEqual([4, 2]);
    expect(await of({ types: " file.written , file.written" })).toEqual([3, 1]);
    expect(await of({ namespace: "existing" })).toEqual([4, 3]);
    expect(await of({ namespace: "existing", types: "file.written" })).toEqual([3]);
    expect(await of({ namespace: "nothing" })).toEqual([]);
    expect(await of({ types: "snapshot.deleted" })).toEqual([]);
    expect(await of({ types: "snapshot.*,exec.completed" })).toEqual([4, 2]);
    expect((await of({ types: "*" })).slice(0, 4)).toEqual([4, 3, 2, 1]);
    // Account events belong to no namespace.
    expect((await page({ types: "key.created", namespace: "existing" })).events).toEqual([]);
    expect((await page({ types: "key.created" })).events.length).toBeGreaterThan(0);
  });

  test("nonsense is refused, each with what would be right", async () => {
    const wrong: Record<string, RegExp> = {
      "?limit=0": /1 to 1000/,
      "?limit=1001": /1 to 1000/,
      "?limit=-1": /1 to 1000/,
      "?limit=1.5": /1 to 1000/,
      "?limit=": /1 to 1000/,
      "?limit=ten": /1 to 1000/,
      "?since=yesterday": /ISO 8601/,
      "?since=": /ISO 8601/,
      "?since=2026-02-30": /ISO 8601/,
      "?types=": /file\.written/,
      "?types=file.written,": /file\.written/,
      "?types=file.writen": /no event type "file.writen"; there are .*file\.written/,
      "?types=exec.completed,DROP%20TABLE": /no event type "DROP TABLE"/,
      "?cursor=": /next_cursor/,
      "?cursor=abc": /next_cursor/,
      "?limit=1&limit=2": /twice/,
      "?since=2026-01-01&since=2026-01-02": /twice/,
    };
    for (const [query, sentence] of Object.entries(wrong)) {
      const [status, detail] = await refusal(events(query, tenant.keys.admin.apiKey));
      expect([query, status]).toEqual([query, 422]);
      expect(detail).toMatch(sentence);
    }
    const [status, detail] = await refusal(events("?namespace=no%20name", tenant.keys.admin.apiKey));
    expect([status, detail]).toEqual([400, expect.stringContaining("namespace name")]);
    // The key comes first: nothing is said to strangers.
    expect((await api.call(`/v1/workspaces/${tenant.ws}/events?limit=0`)).status).toBe(401);
  });
});

describe("cursors", () => {
  beforeAll(async () => {
    for (const { ws } of [tenant, foreign]) {
      await api.ledger.append([
        ...Array.from({ length: 5 }, (_, n) => draftOf(ws, n)),
        ...Array.from({ length: 5 }, (_, n) => draftOf(ws, 100 + n, { namespace: "existing" })),
      ]);
    }
  });

  test("one works with its own query alone; since may move on", async () => {
    const { admin, unlocked } = tenant.keys;
    const own = (await tenant.page({ namespace: "own", limit: "2" })).next_cursor!;
    const typed = (await tenant.page({ types: "file.written,exec.completed", limit: "2" })).next_cursor!;
    const others: [string, string, string?][] = [
      [`?cursor=${own}`, admin.apiKey],
      [`?namespace=existing&cursor=${own}`, admin.apiKey],
      [`?namespace=own&types=file.written&cursor=${own}`, admin.apiKey],
      [`?types=file.written&cursor=${typed}`, admin.apiKey],
      [`?namespace=own&cursor=${own}`, foreign.keys.admin.apiKey, foreign.ws],
    ];
    for (const [query, key, ws] of others) {
      expect(await refusal(events(query, key, ws))).toEqual([422, expect.stringContaining("another query")]);
    }
    const rest = await tenant.page({ namespace: "own", limit: "1000", cursor: own });
    expect(numbers(rest.events).slice(0, 3)).toEqual([2, 1, 0]);
    // The same question of another key, another order of types, another limit, and a later since.
    const same = [
      await tenant.page({ namespace: "own", cursor: own, since: "2020-01-01" }, unlocked.apiKey),
      await tenant.page({ namespace: "own", cursor: own, limit: "1" }, admin.apiKey),
      await tenant.page({ types: "exec.completed,file.written", cursor: typed }),
    ];
    expect(same.map(({ events: [first] }) => first?.data.n)).toEqual([2, 2, 102]);
  });

  test("a forged one widens nothing", async () => {
    const cursor = (await tenant.page({ namespace: "own", limit: "1" }, tenant.keys.locked.apiKey))
      .next_cursor!;
    const [version, time, digest] = Buffer.from(cursor, "base64url").toString().split(".");
    const forge = (...parts: string[]) => Buffer.from(parts.join(".")).toString("base64url");
    // Far in the future: the newest of its own, and nothing else.
    const all = await tenant.page(
      { cursor: forge(version!, "9".repeat(16), digest!) },
      tenant.keys.locked.apiKey,
    );
    expect(all.events.length).toBeGreaterThan(0);
    expect(all.events.every(({ namespace }) => namespace === "own")).toBe(true);
    for (const broken of [
      forge(version!, time!, "0".repeat(16)),
      forge("2", time!, digest!),
      forge(version!, "-1", digest!),
      forge(version!, "1 OR 1=1", digest!),
      forge(version!, "9".repeat(17), digest!),
      forge(version!, time!, `${digest}.x`),
      cursor.slice(0, -1),
      `${cursor}%00`,
      "x".repeat(5000),
    ]) {
      expect((await events(`?cursor=${broken}`, tenant.keys.locked.apiKey)).status).toBe(422);
    }
  });
});

describe("who may read what", () => {
  test("a locked key reads its own, without the numbers that tell of others", async () => {
    const { locked, admin } = tenant.keys;
    for (const query of [{}, { namespace: "own" }]) {
      const { events } = await tenant.page(query, locked.apiKey);
      expect(events.length).toBeGreaterThan(4);
      expect(events.every(({ namespace, seq }) => namespace === "own" && seq === undefined)).toBe(true);
    }
    // The control: there is more to see.
    const all = (await tenant.page({}, admin.apiKey)).events;
    expect(new Set(all.map(({ namespace }) => namespace))).toEqual(new Set(["own", "existing", null]));
    expect(all.every(({ seq }) => seq !== undefined)).toBe(true);
  });

  test("a locked key reads nothing of a namespace that had its name before", async () => {
    const { ws, page } = await startTenant(api);
    await api.ledger.append([draftOf(ws, 1)]);
    await Bun.sleep(2);
    await api.namespaces.remove(ws, "own", APPLIANCE);
    await Bun.sleep(2);
    const id = await api.namespaces.ensure(ws, "own");
    const namespace = { id, name: "own" };
    const key = await api.keys.create(
      { workspaceId: ws, name: "k", scope: "workspace", namespace },
      APPLIANCE,
    );
    await api.ledger.append([draftOf(ws, 2)]);
    const files = async (query: Record<string, string>, apiKey?: string) =>
      numbers((await page({ types: "file.written", ...query }, apiKey)).events);
    expect(await files({}, key.apiKey)).toEqual([2]);
    expect(await files({ since: "2020-01-01" }, key.apiKey)).toEqual([2]);
    // Who manages the workspace sees both.
    expect(await files({ namespace: "own" })).toEqual([2, 1]);
    for (const [query, headers] of [
      ["?since=2020-01-01", {}],
      ["", { "last-event-id": "unknown" }],
    ] as const) {
      const stream = readEvents(
        await api.call(`/v1/workspaces/${ws}/webhooks/stream${query}`, { key: key.apiKey, headers }),
      );
      await stream.until(() => stream.events().some(({ data }) => data.n === 2));
      expect(stream.text).not.toContain('"n":1}');
      await stream.close();
    }
  });

  test("for a locked key another namespace is the same 403, whether it exists or not", async () => {
    const answers = await Promise.all(
      ["existing", "nothing", "../own", "OWN", "own%20", ""].map((name) =>
        refusal(events(`?namespace=${name}`, tenant.keys.locked.apiKey)),
      ),
    );
    for (const answer of answers) expect(answer).toEqual([403, expect.stringContaining("locked")]);
    expect(new Set(answers.map(String)).size).toBe(1);
  });

  test("an unlocked key has to name one, and learns nothing of those that are not", async () => {
    const { unlocked } = tenant.keys;
    expect(await refusal(events("", unlocked.apiKey))).toEqual([
      403,
      expect.stringContaining("?namespace=NAME"),
    ]);
    expect((await tenant.page({ namespace: "own" }, unlocked.apiKey)).events.length).toBeGreaterThan(0);
    expect(await tenant.page({ namespace: "nothing" }, unlocked.apiKey)).toEqual({
      events: [],
      next_cursor: null,
    });
    // Reading made no namespace.
    expect((await api.namespaces.list(tenant.ws)).map(({ name }) => name)).toEqual(["existing", "own"]);
  });

  test("another workspace's id in the path is 403, whether there is one or not", async () => {
    for (const kind of ["admin", "unlocked", "locked"] as const) {
      for (const ws of [foreign.ws, "ws-aaaaaaaaaaaaaaaa", "nonsense"]) {
        const [status] = await refusal(events("?namespace=own", tenant.keys[kind].apiKey, ws));
        expect(status).toBe(403);
      }
    }
    expect((await events("?namespace=own", foreign.keys.admin.apiKey, foreign.ws)).status).toBe(200);
  });

  test("the operator reads any workspace, and the appliance's own log on the admin socket alone", async () => {
    await api.ledger.append([draftOf("appliance", 7, { type: "request.refused", namespace: null })]);
    const page = async (path: string) => (await (await api.admin(path)).json()) as Page;
    for (const { ws } of [tenant, foreign]) {
      const { events } = await page(`/v1/workspaces/${ws}/events?limit=2`);
      expect(events.map(({ workspace_id }) => workspace_id)).toEqual([ws, ws]);
    }
    expect((await api.admin("/v1/workspaces/ws-aaaaaaaaaaaaaaaa/events")).status).toBe(404);
    const own = await page("/admin/events?types=request.refused");
    expect(own.events[0]).toMatchObject({ workspace_id: null, namespace: null, data: { n: 7 } });
    const key = tenant.keys.admin.apiKey;
    expect((await api.admin("/admin/events", { key })).status).toBe(403);
    expect((await api.call("/admin/events", { key })).status).toBe(404);
    expect((await events("", key, "appliance")).status).toBe(403);
  });
});

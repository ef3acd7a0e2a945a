import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import { sql } from "drizzle-orm";
import { APPLIANCE } from "../../../src/audit/event.ts";
import type { Ledger } from "../../../src/audit/ledger.ts";
import type { Database } from "../../../src/db/open.ts";
import { intents, workspaces } from "../../../src/db/schema.ts";
import { OutcomeUnknown } from "../../../src/db/server/outcome.ts";
import { foreseen } from "../../../src/errors.ts";
import { namespaceId, workspaceId } from "../../../src/ids.ts";
import { allEvents } from "../../fixtures/chain.ts";
import { createAuthority } from "../../fixtures/authority.ts";
import { draftOf } from "../../fixtures/log.ts";
import { openHost, startServerLedger, type ServerOptions } from "../../fixtures/server-ledger.ts";
import { startServerFront, type ServerFront } from "../../fixtures/server-front.ts";
import { startSqld, type Sqld } from "../../fixtures/sqld.ts";
import { until } from "../../fixtures/until.ts";

let server: Sqld;
let front: ServerFront;
const open: { close(): void | Promise<void> }[] = [];

beforeAll(async () => {
  server = await startSqld();
});
afterAll(() => server[Symbol.asyncDispose]());

beforeEach(() => {
  front = startServerFront(server.url);
});
afterEach(async () => {
  front.passage = "pass";
  for (const one of open.splice(0)) await one.close();
  front[Symbol.dispose]();
});

/** Through the front, its deadlines are the front's. */
const over = (url: string, options: ServerOptions): ServerOptions =>
  url === front.url ? { after: front.after, ...options } : options;

async function host(url = server.url, options: ServerOptions = {}) {
  const found = await openHost(url, over(url, options));
  open.push(found.db);
  return found;
}

async function ledgerOver(url: string, options: ServerOptions = {}) {
  const found = await startServerLedger(url, over(url, options));
  open.push(found);
  return found;
}

/** What a call failed with. */
async function failure(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => null,
    (error: unknown) => error,
  );
}

const put = (id: string) => ({
  sql: "INSERT INTO intents (id, begun_at, namespace_id, draft) VALUES (?, ?, ?, ?)",
  args: [id, 1, "n", "{}"],
});
const has = async (db: Pick<Database, "all">, id: string) =>
  (await db.all(sql`SELECT 1 FROM intents WHERE id = ${id}`)).length === 1;
const isUp = (db: Database) => () => {
  try {
    db.check();
    return true;
  } catch {
    return false;
  }
};

/** A chain for one test's events, and how many of them with this number it has. */
function chainOf(db: Database) {
  const chain = workspaceId.make();
  const append = (ledger: Ledger, n: number) => ledger.append([draftOf(chain, n)]);
  const numbers = async (from = db) =>
    (await allEvents(from)).filter((event) => event.workspace_id === chain).map(({ data }) => data["n"]);
  return { chain, append, numbers };
}

test("it has the tables, keeps what it is given, and makes all of a transaction or nothing", async () => {
  const { db } = await host();
  const workspace = { id: workspaceId.make(), name: "w", createdAt: 1_795_736_562_826_123 };
  await db.insert(workspaces).values(workspace);
  expect(
    await db
      .select()
      .from(workspaces)
      .where(sql`id = ${workspace.id}`),
  ).toEqual([workspace]);
  const bytes = Buffer.from([0, 1, 255]);
  expect(await db.all(sql`SELECT hex(${bytes}) AS bytes`)).toMatchObject([{ bytes: "0001FF" }]);

  await db.transact([put("a"), put("b")]);
  expect(await failure(db.transact([put("c"), put("a")]) as Promise<void>)).toMatchObject({
    code: "SQLITE_CONSTRAINT",
  });
  const orphan = {
    sql: "INSERT INTO namespaces (id, workspace_id, name, created_at, last_used_at) VALUES ('n', 'w', 'n', 1, 1)",
    args: [],
  };
  expect(String(await failure(db.transact([put("d"), orphan]) as Promise<void>))).toContain("FOREIGN KEY");
  await db.transact([put("e")]);
  for (const [id, there] of Object.entries({ a: true, b: true, c: false, d: false, e: true })) {
    expect([id, await has(db, id)]).toEqual([id, there]);
  }
  expect(await db.faults()).toEqual([]);
  await db.delete(intents);
});

test("of 64 at once each is committed, in chains that hang together", async () => {
  const { db, ledger } = await ledgerOver(server.url);
  const { append, numbers } = chainOf(db);
  await Promise.all(Array.from({ length: 64 }, (_, n) => append(ledger, n)));
  expect((await numbers()).length).toBe(64);
  expect(ledger.stats().commits).toBeLessThan(40);
});

test("a server that hangs is answered for within the deadline, then at once, and goes on when it is back", async () => {
  const wait = { shorter: false };
  const { db, ledger, logged } = await ledgerOver(server.url, {
    after(ms, call) {
      const timer = setTimeout(call, wait.shorter ? 300 : ms);
      return () => clearTimeout(timer);
    },
  });
  const { append, numbers } = chainOf(db);
  await append(ledger, 1);
  server.hang();
  wait.shorter = true;
  const hung = await failure(append(ledger, 2));
  expect(foreseen(hung)).toMatchObject({ code: "unavailable" });
  expect(hung).toBeInstanceOf(OutcomeUnknown);
  // Nobody waits for the deadline again: not for one of them, and so not for a hundred.
  const all = await Promise.all(
    Array.from({ length: 100 }, async () => foreseen(await failure(db.select().from(workspaces)))),
  );
  expect(all.every((error) => error?.code === "unavailable")).toBe(true);
  expect(isUp(db)()).toBe(false);
  wait.shorter = false;
  server.go();
  await until(isUp(db));
  await append(ledger, 3);
  const found = await numbers();
  // Whether the second was made is the server's affair; that it is told of once is ours.
  expect([
    [1, 3],
    [1, 2, 3],
  ]).toContainEqual(found as number[]);
  expect(logged.join("")).toContain("the database server is back");
});

test("an answer that is lost is found out: what was made is told of once, also to those who follow", async () => {
  const { db, ledger } = await ledgerOver(front.url);
  const { append, numbers } = chainOf(db);
  await append(ledger, 1);
  const told: unknown[] = [];
  ledger.onPublished((events) => told.push(...events.map(({ body }) => JSON.parse(body).data.n)));
  front.passage = "lose the answer";
  expect(await failure(append(ledger, 2))).toBeInstanceOf(OutcomeUnknown);
  front.passage = "pass";
  await until(isUp(db));
  await append(ledger, 3);
  expect(await numbers()).toEqual([1, 2, 3]);
  expect(told).toEqual([2, 3]);
});

test("a connection that is cut after the server had made it does not even show", async () => {
  const { db, ledger } = await ledgerOver(front.url);
  const { append, numbers } = chainOf(db);
  await append(ledger, 1);
  front.passage = "cut";
  await append(ledger, 2);
  await append(ledger, 3);
  expect(await numbers()).toEqual([1, 2, 3]);
});

test("a transaction that reaches the server late is refused there, and was never made", async () => {
  const { db, ledger } = await ledgerOver(front.url);
  const { append, numbers } = chainOf(db);
  await append(ledger, 1);
  front.passage = "late";
  expect(await failure(append(ledger, 2))).toBeInstanceOf(OutcomeUnknown);
  front.passage = "pass";
  await until(isUp(db));
  await append(ledger, 3);
  expect(await front.deliver()).toBeGreaterThan(0);
  await append(ledger, 4);
  expect(await numbers()).toEqual([1, 3, 4]);
});

test("the positive control: without the claim's turn the late one would have forked the chain", async () => {
  const { db, ledger } = await ledgerOver(front.url);
  const { append, numbers, chain } = chainOf(db);
  await append(ledger, 1);
  front.passage = "late";
  const row = { chain, createdAt: 9e15, seq: 2, id: "evt-late" };
  const late = db.run(
    sql`INSERT INTO events VALUES (${row.chain}, ${row.createdAt}, ${row.seq}, ${row.id}, 't', NULL, '{}', 'h')`,
  );
  await failure(late);
  front.passage = "pass";
  await until(isUp(db));
  await append(ledger, 2);
  await front.deliver();
  await numbers().then(
    () => expect.unreachable(),
    (error: Error) => expect(error.message).toContain("is broken"),
  );
  await db.run(sql`DELETE FROM events WHERE id = 'evt-late'`);
});

test("what had happened on disk when the server went away is told of when it is back, once", async () => {
  const { db, ledger } = await ledgerOver(front.url);
  const { chain, numbers } = chainOf(db);
  const intentOf = (n: number) =>
    ledger.begin({
      chain,
      type: "t",
      namespace: null,
      data: { n },
      origin: APPLIANCE,
      namespaceId: namespaceId.make(),
    });
  const [done, given, unsure] = await Promise.all([intentOf(1), intentOf(2), intentOf(3)]);
  front.passage = "late";
  expect(await failure(done.complete({ n: 1 }))).toMatchObject({
    code: "unavailable",
    message: expect.stringContaining("This was done"),
  });
  expect(foreseen(await failure(given.abandon()))?.code).toBe("unavailable");
  front.passage = "pass";
  await until(isUp(db));
  front.passage = "lose the answer";
  expect(foreseen(await failure(unsure.complete({ n: 3 })))?.code).toBe("unavailable");
  // One that was announced all the same, while its caller was told that it was not.
  front.passage = "pass";
  await until(isUp(db));
  front.passage = "lose the answer";
  expect(foreseen(await failure(intentOf(4)))?.code).toBe("unavailable");
  front.passage = "pass";
  await until(async () => isUp(db)() && ledger.stats().waiting === 0);
  await until(async () => (await db.select().from(intents)).length === 0);
  expect(new Set(await numbers())).toEqual(new Set([1, 3]));
  expect((await numbers()).length).toBe(2);
});

test("a second host is refused while the first lives, and takes over from one that fell silent", async () => {
  const first = await ledgerOver(front.url, { place: "one/0001", times: { beatMs: 100 } });
  const { append, numbers } = chainOf(first.db);
  await append(first.ledger, 1);
  const refused = await failure(openHost(server.url, { place: "two/0002" }));
  expect(refused).toMatchObject({ code: "invalid" });
  expect(String(refused)).toContain("Another Cofferdam (one/0001) works with the database");
  // Cut off from the server, with a transaction under way.
  front.passage = "late";
  const cutOff = failure(append(first.ledger, 2));
  const second = await ledgerOver(server.url, { place: "two/0002", times: { silentMs: 600 } });
  expect(await cutOff).toBeInstanceOf(OutcomeUnknown);
  await append(second.ledger, 3);
  await front.deliver();
  front.passage = "pass";
  await until(() => first.lost.length > 0);
  expect(first.lost[0]?.message).toBe(
    "This appliance stops: another Cofferdam (two/0002) has taken over the database.",
  );
  expect(foreseen(await failure(append(first.ledger, 4)))?.code).toBe("unavailable");
  expect(foreseen(await failure(first.db.select().from(workspaces)))?.code).toBe("unavailable");
  await append(second.ledger, 5);
  expect(await numbers(second.db)).toEqual([1, 3, 5]);
});

test("the same host takes over at once from a process of its own that died", async () => {
  const first = await ledgerOver(front.url);
  const second = await ledgerOver(server.url);
  const { append, numbers } = chainOf(second.db);
  await append(second.ledger, 1);
  expect(foreseen(await failure(first.ledger.append([draftOf("appliance", 1)])))?.code).toBe("unavailable");
  await until(() => first.lost.length > 0);
  expect(await numbers()).toEqual([1]);
});

test("one that is given back in this moment is taken", async () => {
  for (let n = 0; n < 10; n++) {
    const { db } = await openHost(server.url, { place: `place-${n % 2}` });
    // Not waited for, as at the end of a process.
    void db.close();
  }
});

test("one that slept longer than its claim answers nothing before it has looked", async () => {
  const { db } = await host(front.url, { times: { leaseMs: 300 } });
  // A machine that is slow may have made it sleep before.
  await until(isUp(db));
  await Bun.sleep(400);
  expect(isUp(db)()).toBe(false);
  await until(isUp(db));
});

test("a database that went back in time is noticed at the next commit", async () => {
  const { db, ledger, lost } = await ledgerOver(server.url);
  await ledger.append([draftOf("appliance", 1)]);
  await db.run(sql`UPDATE claim SET turn = turn - 1`);
  expect(foreseen(await failure(ledger.append([draftOf("appliance", 2)])))?.code).toBe("unavailable");
  expect(lost[0]).toMatchObject({ code: "conflict" });
  expect(lost[0]?.message).toContain("went back to an earlier state");
});

test("another appliance's database and a newer one are refused with a sentence", async () => {
  const first = await host();
  await first.db.close();
  expect(String(await failure(openHost(server.url, { mark: "another" })))).toContain(
    "belongs to another appliance",
  );
  const again = await host();
  await again.db.run(sql`INSERT INTO migrations VALUES (999, 0)`);
  await again.db.close();
  expect(String(await failure(openHost(server.url)))).toMatch(/of a newer Cofferdam \(version 999/);
  const direct = await fetch(`${server.url}/v2/pipeline`, {
    method: "POST",
    body: JSON.stringify({
      requests: [{ type: "execute", stmt: { sql: "DELETE FROM migrations WHERE version = 999" } }],
    }),
  });
  expect(direct.ok).toBe(true);
});

test("a start waits for a server that is away, says so, and goes on when it comes", async () => {
  await using away = await startSqld();
  await away.kill();
  let waited = 0;
  const opening = host(away.url, { onWaiting: () => void waited++ });
  await until(() => waited > 3);
  await away.start();
  const { db, logged } = await opening;
  expect(logged.filter((line) => line.includes("waits for the database server")).length).toBeGreaterThan(0);
  expect(await db.select().from(workspaces)).toEqual([]);
  await db.close();
  open.splice(0);
});

test("a token opens a server that asks for one; without or with another it is refused, and none is logged", async () => {
  await using guarded = await startSqld({ auth: true });
  const credentials = { token: guarded.token, ca: null as string | null };
  const { db, logged } = await host(guarded.url, { credentials: () => credentials });
  expect(await db.select().from(workspaces)).toEqual([]);
  const bad = `${guarded.token?.slice(0, -8)}AAAAAAAA`;
  credentials.token = bad;
  expect(foreseen(await failure(db.select().from(workspaces)))?.message).toContain(
    "refuses the appliance's token",
  );
  // A new one is taken without a restart.
  credentials.token = guarded.token;
  await until(isUp(db));
  await db.close();
  for (const token of [null, bad]) {
    const refused = await failure(openHost(guarded.url, { credentials: () => ({ token, ca: null }) }));
    expect(refused).toMatchObject({ code: "invalid" });
    expect(String(refused)).toContain("refuses the token in [database] auth_token_file");
  }
  for (const token of [guarded.token ?? "", bad]) expect(logged.join("")).not.toContain(token.slice(-20));
  open.splice(0);
});

test("beyond loopback it is the server of a certificate that the appliance believes, or nobody", async () => {
  const authority = createAuthority();
  const pair = authority.issue("IP:127.0.0.1");
  const seen: (string | null)[] = [];
  using proxy = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    tls: pair,
    async fetch(request) {
      seen.push(request.headers.get("authorization"));
      const { pathname } = new URL(request.url);
      const headers = { "content-type": "application/json", "accept-encoding": "identity" };
      const body = await request.bytes();
      const answer = await fetch(server.url + pathname, { method: "POST", headers, body });
      return new Response(await answer.bytes(), { status: answer.status, headers: answer.headers });
    },
  });
  const url = `https://127.0.0.1:${proxy.port}`;
  const open = (ca: string | null) => {
    let tries = 0;
    return openHost(url, {
      credentials: () => ({ token: "t0ken", ca }),
      onWaiting() {
        if (++tries > 1) throw new Error("enough");
      },
    });
  };
  for (const ca of [null, createAuthority().ca]) {
    expect(String(await failure(open(ca)))).toContain("enough");
  }
  // Not even the token was sent.
  expect(seen).toEqual([]);
  const { db } = await open(authority.ca);
  expect(await db.select().from(workspaces)).toEqual(expect.any(Array));
  await db.close();
  expect(new Set(seen)).toEqual(new Set(["Bearer t0ken"]));
});

test("an answer that sends the client elsewhere is not followed with the token", async () => {
  const visits: (string | null)[] = [];
  using elsewhere = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      visits.push(request.headers.get("authorization"));
      return new Response("", { status: 500 });
    },
  });
  const answers = [
    () => Response.redirect(`http://127.0.0.1:${elsewhere.port}/`, 307),
    () =>
      Response.json({
        baton: "b",
        base_url: `http://127.0.0.1:${elsewhere.port}`,
        results: [{ type: "error", error: { message: "go on there" } }],
      }),
  ];
  for (const answer of answers) {
    using liar = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: answer });
    let waited = 0;
    const opening = failure(
      openHost(`http://127.0.0.1:${liar.port}`, {
        credentials: () => ({ token: "secret", ca: null }),
        onWaiting() {
          if (++waited > 2) throw new Error("enough");
        },
      }),
    );
    await opening;
  }
  expect(visits).toEqual([]);
});

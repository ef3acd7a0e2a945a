import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { eq } from "drizzle-orm";
import { APPLIANCE, type Origin } from "../../../src/audit/event.ts";
import { deviceLogins, events } from "../../../src/db/schema.ts";
import type { WorkspaceId } from "../../../src/ids.ts";
import { createCalls } from "../../../src/keys/calls.ts";
import { createKeys, type Keys, type MadeKey } from "../../../src/keys/keys.ts";
import { createNamespaces, type Namespaces } from "../../../src/keys/namespaces.ts";
import { createWorkspaces } from "../../../src/keys/workspaces.ts";
import { makeUserCode, shownUserCode, type UserCode } from "../../../src/signin/code.ts";
import { createLogins, type Logins } from "../../../src/signin/logins.ts";
import { startLedger } from "../../fixtures/ledger.ts";

const MINUTE = 60_000;
const POLLER: Origin = { ...APPLIANCE, requestId: "req-poll", address: "203.0.113.7" };

let started: Awaited<ReturnType<typeof startLedger>>;
let keys: Keys;
let namespaces: Namespaces;
let logins: Logins;
let ws: WorkspaceId;
let admin: MadeKey;
let approver: Origin;
let clock: number;

beforeEach(async () => {
  started = await startLedger();
  clock = Date.now();
  const { db, ledger, secrets } = started;
  const calls = createCalls();
  keys = createKeys({ db, ledger, calls });
  namespaces = createNamespaces({
    db,
    ledger,
    calls,
    keys,
    secrets,
    limit: () => 2,
    stopSandbox: async () => {},
    removeFiles: async () => {},
  });
  logins = createLogins({
    db,
    ledger,
    secrets,
    keys,
    namespaces,
    now: () => clock,
    ticks: () => clock,
    places: 100,
  });
  ws = (await createWorkspaces({ db, ledger }).create("main", APPLIANCE)).id;
  admin = await keys.create({ workspaceId: ws, name: "boss", scope: "admin", namespace: null }, APPLIANCE);
  approver = { keyId: admin.id, localUser: null, requestId: "req-approve", address: "198.51.100.1" };
});
afterEach(async () => {
  await started.close();
  rmSync(started.dir, { recursive: true });
});

const start = (address: string | null = "203.0.113.7") => logins.start({ client: "tool/1", address });
const asker = () => ({ workspaceId: ws, origin: approver });
const find = (code: UserCode) => logins.find(code, asker());
const answer = async (code: UserCode) => ({ ...asker(), code, binding: (await find(code)).binding });
const approve = async (code: UserCode, namespace: string | null = null) =>
  logins.approve(await answer(code), namespace);
const rows = () => started.db.select().from(deviceLogins);
const told = async () =>
  (await started.db.select().from(events).orderBy(events.seq).where(eq(events.chain, ws))).map(
    ({ type, namespace, body }) => ({ type, namespace, ...(JSON.parse(body) as { data: object }) }),
  );

describe("the way of one sign-in", () => {
  test("pending, approved, key; the events say who did what", async () => {
    const { deviceCode, userCode } = await start();
    expect(await logins.poll(deviceCode, POLLER)).toEqual({ status: "pending" });
    expect(await find(userCode)).toMatchObject({
      client: "tool/1",
      address: "203.0.113.7",
      createdAt: clock,
    });
    const id = await approve(userCode);
    clock += 2000;
    const poll = await logins.poll(deviceCode, POLLER);
    if (poll.status !== "approved") throw new Error(poll.status);
    expect(poll.workspaceId).toBe(ws);
    expect(await keys.authenticate(poll.apiKey)).toMatchObject({
      workspaceId: ws,
      scope: "workspace",
      lockedNamespace: null,
      keyName: "trove login from 203.0.113.7",
    });
    const { keyId } = (await keys.authenticate(poll.apiKey))!;
    expect((await told()).slice(-2)).toMatchObject([
      {
        type: "login.approved",
        actor_key_id: admin.id,
        source_address: "198.51.100.1",
        request_id: "req-approve",
        data: { login_id: id, client: "tool/1", address: "203.0.113.7", scope: "workspace", namespace: null },
      },
      {
        type: "key.created",
        actor_key_id: null,
        source_address: "203.0.113.7",
        request_id: "req-poll",
        data: {
          key_id: keyId,
          name: "trove login from 203.0.113.7",
          scope: "workspace",
          namespace: null,
          login_id: id,
          approved_by_key_id: admin.id,
          approved_by_local_user: null,
        },
      },
    ]);
    clock += 2000;
    expect(await logins.poll(deviceCode, POLLER)).toEqual({ status: "expired" });
    expect(await rows()).toEqual([]);
  });

  test("a key for one namespace, which the approval makes", async () => {
    const { deviceCode, userCode } = await start();
    await approve(userCode, "alice");
    const poll = await logins.poll(deviceCode, POLLER);
    if (poll.status !== "approved") throw new Error(poll.status);
    expect(await keys.authenticate(poll.apiKey)).toMatchObject({ lockedNamespace: "alice" });
    expect((await told()).slice(-2)).toMatchObject([
      { type: "login.approved", namespace: "alice" },
      { type: "key.created", namespace: "alice", data: { namespace: "alice" } },
    ]);
  });

  test("a namespace that can't be made is the approver's to hear of, and the sign-in still waits", async () => {
    for (const name of ["a", "b"]) await namespaces.ensure(ws, name);
    const { deviceCode, userCode } = await start();
    expect(approve(userCode, "c")).rejects.toMatchObject({ code: "no_space" });
    expect(await logins.poll(deviceCode, POLLER)).toEqual({ status: "pending" });
  });

  test("denied is final, and told at every poll", async () => {
    const { deviceCode, userCode } = await start();
    const shown = await answer(userCode);
    const id = await logins.deny(shown);
    for (let n = 0; n < 3; n++, clock += 2000) {
      expect(await logins.poll(deviceCode, POLLER)).toEqual({ status: "denied" });
    }
    expect(logins.approve(shown, null)).rejects.toMatchObject({ code: "not_found" });
    expect((await told()).at(-1)).toMatchObject({ type: "login.denied", data: { login_id: id } });
    expect(await keys.list(ws)).toHaveLength(1);
  });

  test("of fifty polls at once exactly one gets a key, and there is one key", async () => {
    const { deviceCode, userCode } = await start();
    await approve(userCode);
    const racing = createLogins({ ...started, keys, namespaces, now: () => clock, ticks: unthrottled() });
    const polls = await Promise.all(Array.from({ length: 50 }, () => racing.poll(deviceCode, POLLER)));
    const counts = Map.groupBy(polls, ({ status }) => status);
    expect(counts.get("approved")).toHaveLength(1);
    expect(counts.get("expired")).toHaveLength(49);
    expect(await keys.list(ws)).toHaveLength(2);
    expect((await told()).filter(({ type }) => type === "key.created")).toHaveLength(2);
  });

  test("a key that can't be written leaves the code as it was, for the next poll", async () => {
    const { deviceCode, userCode } = await start();
    await approve(userCode);
    const broken = createLogins({
      ...started,
      namespaces,
      keys: {
        creation: (wanted, origin) => {
          const part = keys.creation(wanted, origin);
          return {
            ...part,
            statements: [...part.statements, { sql: "INSERT INTO keys (id) VALUES ('half')", args: [] }],
          };
        },
      },
      now: () => clock,
    });
    expect(broken.poll(deviceCode, POLLER)).rejects.toThrow();
    expect(await keys.list(ws)).toHaveLength(1);
    expect((await told()).at(-1)).toMatchObject({ type: "login.approved" });
    expect(await logins.poll(deviceCode, POLLER)).toMatchObject({ status: "approved" });
    expect(await keys.list(ws)).toHaveLength(2);
  });

  test("of an approval and a denial at once one holds", async () => {
    const { userCode } = await start();
    const shown = await answer(userCode);
    const done = await Promise.allSettled([
      logins.approve(shown, null),
      logins.deny(shown),
      logins.approve(shown, "x"),
    ]);
    expect(done.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect((await told()).filter(({ type }) => type.startsWith("login."))).toHaveLength(1);
  });
});

/** Ticks so far apart that no poll is too fast. */
function unthrottled(): () => number {
  let at = 0;
  return () => (at += 10_000);
}

describe("the end of a code", () => {
  test("after ten minutes it is expired for both, answered or not, and swept", async () => {
    const [open, granted] = [await start(), await start()];
    await approve(granted.userCode);
    const shown = await answer(open.userCode);
    clock += 10 * MINUTE - 1;
    expect(await find(open.userCode)).toBeDefined();
    clock += 1;
    expect(await logins.poll(open.deviceCode, POLLER)).toEqual({ status: "expired" });
    expect(await logins.poll(granted.deviceCode, POLLER)).toEqual({ status: "expired" });
    expect(logins.approve(shown, null)).rejects.toMatchObject({ code: "not_found" });
    expect(await keys.list(ws)).toHaveLength(1);
    expect(await rows()).toHaveLength(2);
    await logins.sweep();
    expect(await rows()).toEqual([]);
  });

  test("a start sweeps too", async () => {
    await start();
    clock += 10 * MINUTE;
    const { userCode } = await start();
    expect(await rows()).toHaveLength(1);
    expect(await find(userCode)).toBeDefined();
  });

  test("an approval ends with the approver's key", async () => {
    const { deviceCode, userCode } = await start();
    await approve(userCode);
    await keys.revoke(ws, admin.id, APPLIANCE);
    expect(await logins.poll(deviceCode, POLLER)).toEqual({ status: "expired" });
    expect(await keys.list(ws)).toEqual([]);
    expect(await rows()).toEqual([]);
  });

  test("of approvals for several namespaces at once one holds, and makes only its own", async () => {
    const { userCode } = await start();
    const shown = await answer(userCode);
    const done = await Promise.allSettled(["a", "b"].map((name) => logins.approve(shown, name)));
    const winner = ["a", "b"][done.findIndex(({ status }) => status === "fulfilled")];
    expect(done.filter(({ status }) => status === "rejected")).toHaveLength(1);
    expect((await namespaces.list(ws)).map(({ name }) => name)).toEqual([winner ?? "none"]);
  });

  test("an approval ends with its namespace, also when that is made anew", async () => {
    const { deviceCode, userCode } = await start();
    await approve(userCode, "alice");
    await namespaces.remove(ws, "alice", APPLIANCE);
    await namespaces.ensure(ws, "alice");
    expect(await logins.poll(deviceCode, POLLER)).toEqual({ status: "expired" });
    expect(await keys.list(ws)).toHaveLength(1);
  });
});

describe("what was shown is what is answered", () => {
  test("another binding is refused, and nothing changes; the shown one is taken", async () => {
    const [one, two] = [await start(), await start("198.51.100.66")];
    const shown = await answer(one.userCode);
    const other = await answer(two.userCode);
    for (const wrong of [other.binding, "", shown.binding.replace(/^./, (c) => (c === "0" ? "1" : "0"))]) {
      expect(logins.approve({ ...shown, binding: wrong }, null)).rejects.toMatchObject({
        code: "conflict",
      });
      expect(logins.deny({ ...shown, binding: wrong })).rejects.toMatchObject({ code: "conflict" });
    }
    expect(await logins.poll(one.deviceCode, POLLER)).toEqual({ status: "pending" });
    expect(await namespaces.list(ws)).toEqual([]);
    await logins.approve(shown, null);
  });

  test("it covers each thing that is shown", async () => {
    const { userCode } = await start();
    const shown = await answer(userCode);
    const [row] = await rows();
    for (const change of [
      { client: "other" },
      { address: "192.0.2.9" },
      { createdAt: clock - 1 },
      { expiresAt: clock + 99 },
    ]) {
      await started.db.update(deviceLogins).set(change);
      expect(logins.approve(shown, null)).rejects.toMatchObject({ code: "conflict" });
      await started.db.update(deviceLogins).set(row!);
    }
    await logins.approve(shown, null);
  });
});

describe("guessing", () => {
  test("a wrong code, an expired, a denied and a fetched one are told by the same words", async () => {
    const old = await start();
    clock += 10 * MINUTE;
    const denied = await start();
    await logins.deny(await answer(denied.userCode));
    const fetched = await start();
    await approve(fetched.userCode);
    await logins.poll(fetched.deviceCode, POLLER);
    const texts = new Set<string>();
    for (const code of [makeUserCode(), old.userCode, denied.userCode, fetched.userCode]) {
      texts.add(await find(code).then(String, (error: Error) => error.message));
    }
    expect([...texts]).toEqual([expect.stringMatching(/^No sign-in waits/)]);
  });

  test("is counted before it is looked up: of two hundred at once ten are answered", async () => {
    const { userCode } = await start();
    const tries = await Promise.all(
      Array.from({ length: 200 }, () => find(makeUserCode()).catch((error: { code: string }) => error.code)),
    );
    expect(tries.filter((code) => code === "not_found")).toHaveLength(10);
    expect(tries.filter((code) => code === "busy")).toHaveLength(190);
    // Even the right one now waits, and the others' workspaces don't.
    expect(find(userCode)).rejects.toMatchObject({ code: "busy" });
    const { db, ledger } = started;
    const other = (await createWorkspaces({ db, ledger }).create("other", APPLIANCE)).id;
    expect(await logins.find(userCode, { workspaceId: other, origin: approver })).toBeDefined();
    clock += 10 * MINUTE;
    expect(find(userCode)).rejects.toMatchObject({ code: "not_found" });
  });

  test("a poll with a code that never was says expired", async () => {
    for (const code of ["", "x", "A".repeat(43)]) {
      expect(await logins.poll(code, POLLER)).toEqual({ status: "expired" });
    }
  });
});

describe("starts", () => {
  test("one address, or one /64, has twenty at once; others are not kept waiting by it", async () => {
    for (const [mine, other] of [
      ["203.0.113.7", "203.0.113.8"],
      ["2001:db8:1:2::", "2001:db8:1:3::"],
    ] as const) {
      const address = (n: number) => (mine.endsWith("::") ? mine + n : mine);
      for (let n = 1; n <= 20; n++) await start(address(n));
      expect(start(address(99))).rejects.toMatchObject({ code: "busy", retryAfterS: 60 });
      await start(other.endsWith("::") ? `${other}1` : other);
    }
    clock += 10 * MINUTE;
    await start();
  });

  test("when all places are taken the crowd displaces itself, and who is alone keeps its own", async () => {
    const quiet = await start("198.51.100.1");
    const granted = await start("2001:db8:5:1::1");
    await approve(granted.userCode);
    // A customer's /48 has 65,536 networks of one address each.
    const from = (n: number) => `2001:db8:5:${(n + 2).toString(16)}::1`;
    for (let n = 0; n < 98; n++) await start(from(n));
    expect(await rows()).toHaveLength(100);
    const late = await start("192.0.2.1");
    for (let n = 98; n < 300; n++) await start(from(n));
    expect(await rows()).toHaveLength(100);
    expect(await find(quiet.userCode)).toBeDefined();
    expect(await find(late.userCode)).toBeDefined();
    expect(await logins.poll(granted.deviceCode, POLLER)).toMatchObject({ status: "approved" });
  });

  test("one from a full address displaces nobody", async () => {
    for (let n = 0; n < 5; n++) for (let k = 0; k < 20; k++) await start(`203.0.${n}.1`);
    expect(await rows()).toHaveLength(100);
    const before = new Set((await rows()).map(({ id }) => id));
    expect(start("203.0.3.1")).rejects.toMatchObject({ code: "busy" });
    expect(new Set((await rows()).map(({ id }) => id))).toEqual(before);
  });

  test("leave neither code in the database's files, which hold the approval's event", async () => {
    const { deviceCode, userCode } = await start();
    const id = await approve(userCode);
    const poll = await logins.poll(deviceCode, POLLER);
    if (poll.status !== "approved") throw new Error(poll.status);
    const bytes = readdirSync(started.dir)
      .map((name) => readFileSync(join(started.dir, name), "latin1"))
      .join("");
    expect(bytes).toContain(id);
    for (const secret of [deviceCode, userCode, shownUserCode(userCode), poll.apiKey]) {
      expect(bytes.includes(secret)).toBe(false);
    }
  });
});

test("the operator sees what waits, without codes", async () => {
  const [one, two] = [await start(), await start("198.51.100.66")];
  await logins.deny(await answer(one.userCode));
  const list = await logins.list();
  expect(list).toMatchObject([{ address: "198.51.100.66", client: "tool/1" }]);
  expect(JSON.stringify(list)).not.toContain(two.userCode);
});

test("the operator approves without a key", async () => {
  approver = { keyId: null, localUser: "alice", requestId: null, address: null };
  const { deviceCode, userCode } = await start();
  await approve(userCode);
  expect(await logins.poll(deviceCode, POLLER)).toMatchObject({ status: "approved" });
  expect((await told()).at(-1)).toMatchObject({
    data: { approved_by_key_id: null, approved_by_local_user: "alice" },
  });
});

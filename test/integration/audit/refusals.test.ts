import { expect, test } from "bun:test";
import { createRefusals, type Refusal } from "../../../src/audit/refusals.ts";
import { keyId, requestId } from "../../../src/ids.ts";
import { sourceOf } from "../../../src/net/source.ts";
import { startApi } from "../../fixtures/api.ts";
import { allEvents, type WireEvent } from "../../fixtures/chain.ts";
import { startLedger } from "../../fixtures/ledger.ts";
import { seededRandom } from "../../fixtures/random.ts";
import { until } from "../../fixtures/until.ts";

const ROWS_A_MINUTE = 23;
const log = { info() {}, warn() {}, error: (...args: unknown[]) => console.error(...args) };

async function stage() {
  const started = await startLedger();
  const clock = { ms: 1_800_000_000_000 };
  const refusals = createRefusals({ ledger: started.ledger, log, now: () => clock.ms });
  const running = refusals.start();
  return {
    clock,
    refusals,
    rows: async (): Promise<WireEvent[]> => {
      await running.stop();
      const events = await allEvents(started.db);
      await started.close();
      return events;
    },
  };
}

const refusal = (over: Partial<Refusal> = {}): Refusal => {
  const address = over.address ?? "192.0.2.1";
  return {
    status: 401,
    reason: "no valid key",
    address,
    source: sourceOf(address).source,
    keyId: null,
    workspaceId: null,
    route: null,
    requestId: requestId.make(),
    ...over,
  };
};

const sumOf = (events: readonly WireEvent[], status?: number) =>
  events
    .filter(({ data }) => status === undefined || data["status"] === status)
    .reduce((sum, { data }) => sum + Number(data["count"]), 0);

test("the first of a source is written at once, with its request; more of it in one row a minute", async () => {
  const { refusals, rows } = await stage();
  const key = keyId.make();
  const first = refusal({ status: 403, reason: "not allowed", keyId: key, route: "/v1/exec" });
  refusals.note(first);
  for (let n = 0; n < 40; n++) refusals.note(refusal({ status: 403, reason: "not allowed", keyId: key }));
  refusals.note(refusal({ address: "2001:db8::1" }));
  refusals.note(refusal({ address: "2001:db8::2" }));
  const events = await rows();
  expect(new Set(events.map(({ type, workspace_id }) => `${type} ${workspace_id}`))).toEqual(
    new Set(["request.refused null"]),
  );
  expect(events[0]).toMatchObject({
    request_id: first.requestId,
    source_address: "192.0.2.1",
    actor_key_id: key,
    data: { status: 403, reason: "not allowed", key_id: key, route: "/v1/exec", count: 1 },
  });
  const shown = events.slice(1).map(({ data }) => [data["status"], data["address"], data["count"]]);
  expect(shown).toEqual([
    [401, "2001:db8:0:0::/64", 1],
    [403, "192.0.2.1", 40],
    // Another address of one network is the same client.
    [401, "2001:db8:0:0::/64", 1],
  ]);
});

test("100,000 refusals from as many addresses over three minutes: few rows, and no refusal is lost", async () => {
  const { refusals, clock, rows } = await stage();
  const random = seededRandom(7);
  const sent = { 401: 0, 403: 0, 429: 0 };
  const statuses = [401, 401, 401, 403, 429] as const;
  const calls = 100_000;
  for (let n = 0; n < calls; n++) {
    const status = statuses[random.int(statuses.length)]!;
    sent[status] += 1;
    // One of them comes back all the time.
    const address =
      n % 10 === 0 ? "203.0.113.9" : `2001:db8:${(n >> 16).toString(16)}:${(n % 65536).toString(16)}::1`;
    refusals.note(refusal({ status, address, reason: `r${status}` }));
    clock.ms += 2;
    if (n % 30_000 === 29_999) refusals.sum();
  }
  expect(refusals.stats()).toEqual(sent);
  const events = await rows();
  expect(events.length).toBeLessThanOrEqual(4 * ROWS_A_MINUTE);
  for (const status of [401, 403, 429] as const) expect(sumOf(events, status)).toBe(sent[status]);
  // And who came back shows by its address.
  const its = events.filter(({ data }) => data["address"] === "203.0.113.9");
  expect(sumOf(its)).toBe(calls / 10);
});

test("a quiet minute writes nothing, and an attack that ended is forgotten", async () => {
  const { refusals, rows } = await stage();
  for (let n = 0; n < 3; n++) refusals.note(refusal());
  for (let minute = 0; minute < 5; minute++) refusals.sum();
  // It is the first of its minute again.
  refusals.note(refusal());
  const events = await rows();
  expect(events.map(({ data }) => data["count"])).toEqual([1, 2, 1]);
});

test("over HTTP: each kind of refusal is noted, and an answer that refuses nothing is not", async () => {
  const api = await startApi();
  const setup = (await (await api.admin("/admin/setup", { method: "POST" })).json()) as Record<
    string,
    string
  >;
  const [workspace, admin] = [setup["workspace_id"]!, setup["admin_key"]!];
  const me = (await (await api.call("/v1/me", { key: admin })).json()) as { key_id: string };
  const statuses = [
    await api.call("/v1/me"),
    await api.call("/v1/me", { key: `trove-sk-${"A".repeat(48)}` }),
    await api.call("/v1/files", { key: admin, namespace: "a" }),
    await api.call(`/v1/workspaces/${workspace}/keys`, { key: admin }),
    await api.call("/v1/nothing", { key: admin }),
    await api.call(`/v1/workspaces/${workspace}/keys`, { key: admin, json: {} }),
  ].map(({ status }) => status);
  expect(statuses).toEqual([401, 401, 403, 200, 404, 422]);
  expect(api.refusalLog.stats()).toEqual({ 401: 2, 403: 1, 429: 0 });
  api.refusalLog.sum();
  await api.ledger.durable();
  const refused = await until(async () => {
    const found = (await allEvents(api.db)).filter(({ type }) => type === "request.refused");
    return found.length >= 3 && found;
  });
  const shown = refused.map(({ data }) => [data["status"], data["reason"], data["key_id"], data["count"]]);
  expect(shown).toEqual([
    [401, "no valid key", null, 1],
    [403, "not allowed", me.key_id, 1],
    [401, "no valid key", null, 1],
  ]);
  expect(refused[1]).toMatchObject({ source_address: "127.0.0.1", data: { workspace_id: workspace } });
  // No key, valid or not, is in the log.
  expect(JSON.stringify(refused)).not.toContain("trove-sk-");
  await api.stop();
  api.remove();
});

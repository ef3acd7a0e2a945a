import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { openMetricsPort } from "../../../../src/api/appliance/metrics.ts";
import { APPLIANCE } from "../../../../src/audit/event.ts";
import { AppError } from "../../../../src/errors.ts";
import { startApi, type TestApi } from "../../../fixtures/api.ts";
import { parseExposition, valueOf } from "../../../fixtures/exposition.ts";

let api: TestApi;
let key: string;
beforeAll(async () => {
  api = await startApi();
  const { id } = await api.workspaces.create("quagga & sons", APPLIANCE);
  key = (
    await api.keys.create({ workspaceId: id, name: "okapi", scope: "workspace", namespace: null }, APPLIANCE)
  ).apiKey;
});
afterAll(async () => {
  await api.stop();
  api.remove();
});

const scrape = async () => {
  const answer = await api.admin("/metrics");
  expect(answer.headers.get("content-type")).toStartWith("text/plain; version=0.0.4");
  return parseExposition(await answer.text());
};

describe("/readyz", () => {
  /** What was found is kept for a second. */
  const forgotten = () => Bun.sleep(1100);
  beforeEach(forgotten);

  test("is 200 without a key when all is well", async () => {
    const answer = await api.call("/readyz");
    expect([answer.status, await answer.json()]).toEqual([200, { ready: true }]);
    const operator = await api.admin("/readyz");
    const notices = ["something is not as it should be"];
    expect([operator.status, await operator.json()]).toEqual([200, { ready: true, notices }]);
    expect(valueOf(await scrape(), "cofferdam_ready")).toBe(1);
  });

  test("is 503 with the names of what is amiss, and only the operator is told more", async () => {
    api.faults.set("sandboxd", new AppError("unavailable", "sandboxd at /run/secret/place is away"));
    api.faults.set("disk", new Error());
    const answer = await api.call("/readyz");
    expect(answer.status).toBe(503);
    expect(answer.headers.get("retry-after")).toBe("5");
    expect(await answer.json()).toEqual({
      ready: false,
      reasons: ["disk", "sandboxd"],
      detail: "Not ready: disk; sandboxd",
    });
    const operator = await api.admin("/readyz");
    expect([operator.status, await operator.json()]).toMatchObject([
      503,
      {
        reasons: [
          "disk: 0 MiB are free, and writes stop at 512 MiB",
          "sandboxd: sandboxd at /run/secret/place is away",
        ],
      },
    ]);
    const families = await scrape();
    expect(valueOf(families, "cofferdam_ready")).toBe(0);
    expect(valueOf(families, "cofferdam_sandboxd_up")).toBe(0);
    // Not the last that was known of it.
    expect(valueOf(families, "cofferdam_sandbox_pool_ready")).toBeNaN();
    api.faults.clear();
    await forgotten();
    expect((await api.call("/readyz")).status).toBe(200);
    expect(valueOf(await scrape(), "cofferdam_sandbox_pool_ready")).toBe(1);
  });
});

describe("/metrics", () => {
  test("counts requests by route, method and status, and times them", async () => {
    const of = { route: "/v1/me", method: "GET" };
    const before = await scrape();
    const at = (families: typeof before, status: string) =>
      valueOf(families, "cofferdam_http_requests_total", { ...of, status }) || 0;
    for (let n = 0; n < 3; n += 1) await api.call("/v1/me", { key });
    await api.call("/v1/me");
    const after = await scrape();
    expect(at(after, "2xx") - at(before, "2xx")).toBe(3);
    expect(at(after, "4xx") - at(before, "4xx")).toBe(1);
    const timed = valueOf(after, "cofferdam_http_request_duration_seconds_count", { ...of, status: "2xx" });
    expect(timed).toBe(at(after, "2xx"));
    expect(valueOf(after, "cofferdam_http_refusals_total", { status: "401" })).toBeGreaterThan(0);
  });

  test("tells of commands, the pool, the audit log, the disk and the process", async () => {
    const families = await scrape();
    const values = Object.fromEntries(
      [...families.values()].flatMap(({ name, samples }) =>
        samples.length === 1 && samples[0]?.name === name ? [[name, samples[0].value]] : [],
      ),
    );
    expect(values).toMatchObject({
      cofferdam_exec_running: 1,
      cofferdam_exec_waiting: 2,
      cofferdam_sandboxes_warm: 3,
      cofferdam_sandbox_pool_target: 2,
      cofferdam_gateway_up: 1,
      cofferdam_gateway_runs: 3,
      cofferdam_gateway_requests: 2,
      cofferdam_gateway_tunnels: 1,
      cofferdam_audit_chains: 2,
      cofferdam_disk_free_bytes: 2 ** 30,
      cofferdam_disk_floor_bytes: 2 ** 29,
      cofferdam_log_lines_lost_total: 0,
      cofferdam_webhooks: 0,
      cofferdam_build_info: 1,
    });
    for (const name of ["audit_events_total", "audit_commits_total", "process_resident_memory_bytes"]) {
      expect(values[`cofferdam_${name}`]).toBeGreaterThan(0);
    }
    const newest = values["cofferdam_audit_last_event_timestamp_seconds"] ?? 0;
    expect(new Date(newest * 1000).getUTCFullYear()).toBe(new Date().getUTCFullYear());
    for (const name of families.keys()) expect(name).toStartWith("cofferdam_");
  });

  test("holds nothing that a tenant named, and no more series however much is made up", async () => {
    await api.call("/v1/me");
    await api.call("/nothing");
    await api.call("/nothing", { method: "PROPFIND" });
    const before = await (await api.admin("/metrics")).text();
    const made = Array.from({ length: 40 }, (_, n) => `okapi-${n}`);
    for (const name of made) {
      await api.call("/write", { key, namespace: name, json: { path: `${name}.txt`, content: name } });
      await api.call(`/files/${name}`, { key, namespace: name });
      await api.call(`/${name}`, { key });
      await api.call(`/v1/workspaces/ws-${name}/keys`, { key });
      await api.call("/nothing", { method: n(name) % 2 === 0 ? "REPORT" : "SEARCH" });
    }
    const after = await (await api.admin("/metrics")).text();
    expect(after).not.toMatch(/okapi|quagga|ws-|ns-|key-|trove/i);
    const routes = (text: string) =>
      new Set([...text.matchAll(/route="([^"]*)"/g)].map(([, route]) => route));
    const fresh = [...routes(after)].filter((route) => !routes(before).has(route));
    expect(new Set(fresh)).toEqual(new Set(["/files/*", "/v1/workspaces/:ws/keys", "/write"]));
    const series = (text: string) =>
      text.split("\n").filter((line) => line.includes("_requests_total{")).length;
    expect(series(after) - series(before)).toBe(3);
  });

  test("are all in the documents", async () => {
    const documented = await Bun.file(join(import.meta.dir, "../../../../docs/operations.md")).text();
    const names = [...(await scrape()).keys()].map((name) => name.replace("cofferdam_", ""));
    expect(names.length).toBeGreaterThan(30);
    expect(names.filter((name) => !documented.includes(`\`${name}\``))).toEqual([]);
  });

  test("is the operator's", async () => {
    expect((await api.call("/metrics", { key })).status).toBe(404);
    expect((await api.admin("/metrics", { key })).status).toBe(403);
  });

  test("may have a port of this host, with nothing else on it", async () => {
    const page = { render: async () => "a 1\n", contentType: "text/plain" };
    const server = openMetricsPort({ hostname: "127.0.0.1", port: 0 }, page);
    try {
      const get = (path: string, init?: RequestInit) => fetch(`http://127.0.0.1:${server.port}${path}`, init);
      const answer = await get("/metrics");
      expect([answer.status, await answer.text()]).toEqual([200, "a 1\n"]);
      for (const path of ["/", "/v1/me", "/admin/status", "/readyz"])
        expect((await get(path)).status).toBe(404);
      expect((await get("/metrics", { method: "POST" })).status).toBe(404);
      const taken = () => openMetricsPort({ hostname: "127.0.0.1", port: server.port ?? 0 }, page);
      expect(taken).toThrow(/Cannot listen on the address/);
    } finally {
      await server.stop(true);
    }
  });
});

function n(name: string): number {
  return Number(name.split("-")[1]);
}

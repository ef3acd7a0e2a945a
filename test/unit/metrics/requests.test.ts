import { expect, test } from "bun:test";
import { Registry } from "prom-client";
import { createRequestTimes } from "../../../src/metrics/requests.ts";
import { parseExposition, valueOf } from "../../fixtures/exposition.ts";

const NAME = "cofferdam_http_request_duration_seconds";

async function timesOf(observations: readonly (readonly [string | null, string, number, number])[]) {
  const registry = new Registry();
  const observe = createRequestTimes(registry, [0.01, 0.1, 1]);
  for (const [route, method, status, seconds] of observations) observe(route, method, status, seconds);
  return parseExposition(await registry.metrics());
}

test("nothing counted is still well-formed", async () => {
  const families = await timesOf([]);
  expect([...families.keys()]).toEqual([NAME, "cofferdam_http_requests_total"]);
});

test("a time is in the bucket whose bound it does not pass, and in all above", async () => {
  const times = [0.001, 0.01, 0.010001, 0.5, 1, 7];
  const families = await timesOf(times.map((seconds) => ["/a", "GET", 200, seconds] as const));
  const labels = { route: "/a", method: "GET", status: "2xx" };
  const at = (le: string) => valueOf(families, `${NAME}_bucket`, { ...labels, le });
  expect(["0.01", "0.1", "1", "+Inf"].map(at)).toEqual([2, 3, 5, 6]);
  expect(valueOf(families, `${NAME}_count`, labels)).toBe(6);
  expect(valueOf(families, `${NAME}_sum`, labels)).toBeCloseTo(8.521001);
  expect(valueOf(families, "cofferdam_http_requests_total", labels)).toBe(6);
});

test("series are kept apart, and methods that nobody knows share one", async () => {
  const families = await timesOf([
    ["/a", "GET", 200, 0],
    ["/a", "GET", 404, 0],
    ["/a", "PUT", 200, 0],
    ["/b", "GET", 200, 0],
    [null, "GET", 404, 0],
    ["/a", "REPORT", 405, 0],
    ["/a", "PROPFIND", 405, 0],
  ]);
  const count = (route: string, method: string, status: string) =>
    valueOf(families, "cofferdam_http_requests_total", { route, method, status });
  expect([
    count("/a", "GET", "2xx"),
    count("/a", "GET", "4xx"),
    count("/a", "PUT", "2xx"),
    count("/b", "GET", "2xx"),
    count("none", "GET", "4xx"),
    count("/a", "other", "4xx"),
  ]).toEqual([1, 1, 1, 1, 1, 2]);
  expect(families.get("cofferdam_http_requests_total")?.samples).toHaveLength(6);
});

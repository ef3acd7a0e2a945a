import { readFileSync } from "node:fs";
import { join } from "node:path";
import { startAppliance, type Appliance } from "../test/fixtures/appliance.ts";
import { FAR_NETWORK, startFarHost } from "../test/fixtures/far-host.ts";
import { quantile } from "./stats.ts";

type FarHost = ReturnType<typeof startFarHost>;

export interface WebhookRow {
  name: string;
  seconds: number;
  events_per_s: number;
  /** To the good endpoints: those that were due, and those that had arrived when the last event was written. */
  deliveries: number;
  arrived_by_the_end: number;
  /** Until the last of them had arrived. */
  drained_after_s: number;
  p50_ms: number;
  p99_ms: number;
  api_before_mib: number;
  api_peak_mib: number;
}

const ENDPOINTS = 20;
const PORT = 9000;
/** Nobody listens there. */
const DEAD_PORT = 9001;

/**
 * Events at a steady rate, each a durable write over HTTP, to twenty endpoints on another host: one refuses
 * connections, one takes 5 s to answer. `each` says whether every endpoint gets every event, or each those of a
 * namespace of its own.
 */
export async function webhooks(load: { seconds: number; perS: number }): Promise<WebhookRow[]> {
  const far = startFarHost();
  const receiver = far.spawn([
    process.execPath,
    join(import.meta.dir, "receiver.ts"),
    far.address,
    String(PORT),
  ]);
  await receiver.stdout.getReader().read();
  const config = `[exec]\npool = 0\n[webhooks]\nallow_http = true\nallow_private = ["${FAR_NETWORK}"]\n`;
  const appliance = await startAppliance({ config });
  const rows = [];
  for (const everyEvent of [false, true]) rows.push(await measure(appliance, far, { ...load, everyEvent }));
  await appliance.stop();
  receiver.kill();
  await receiver.exited;
  return rows;
}

async function measure(
  appliance: Appliance,
  far: FarHost,
  { seconds, perS, everyEvent }: { seconds: number; perS: number; everyEvent: boolean },
): Promise<WebhookRow> {
  const { workspace_id: ws, admin_key: key } = appliance.keys;
  const hooks = `/v1/workspaces/${ws}/webhooks`;
  const url = (n: number) => {
    if (n === 0) return `http://${far.address}:${DEAD_PORT}/`;
    return `http://${far.address}:${PORT}/${n === 1 ? "slow" : "good"}/${n}`;
  };
  const ids: string[] = [];
  for (let n = 0; n < ENDPOINTS; n++) {
    const json = { url: url(n), events: ["file.written"], namespace: everyEvent ? null : `bench-${n}` };
    const made = await appliance.call(hooks, { key, namespace: null, json });
    ids.push(((await made.json()) as { webhook_id: string }).webhook_id);
  }
  const before = rss(appliance.pid("api"));
  let peak = before;
  const watching = setInterval(() => (peak = Math.max(peak, rss(appliance.pid("api")))), 200);
  const good = new Map<string, number[]>();
  const collect = async () => {
    const answer = (await (await fetch(`http://${far.address}:${PORT}/`)).json()) as Record<string, number[]>;
    for (const [path, delays] of Object.entries(answer))
      if (path.startsWith("/good/")) good.set(path, [...(good.get(path) ?? []), ...delays]);
    return [...good.values()].reduce((sum, { length }) => sum + length, 0);
  };

  const total = seconds * perS;
  const started = performance.now();
  const writes: Promise<Response>[] = [];
  for (let sent = 0; sent < total; sent++) {
    const due = started + (sent * 1000) / perS;
    if (due > performance.now()) await Bun.sleep(due - performance.now());
    const namespace = `bench-${sent % ENDPOINTS}`;
    writes.push(
      appliance.call("/write", { namespace, json: { path: `${sent % 50}.txt`, content: "hello" } }),
    );
  }
  for (const write of await Promise.all(writes)) if (!write.ok) throw new Error(`write: ${write.status}`);
  const wroteFor = (performance.now() - started) / 1000;
  const deliveries = (ENDPOINTS - 2) * (everyEvent ? total : total / ENDPOINTS);
  const byTheEnd = await collect();
  let arrived = byTheEnd;
  for (const deadline = performance.now() + 300_000; arrived < deliveries; arrived = await collect()) {
    if (performance.now() > deadline) throw new Error(`only ${arrived} of ${deliveries} arrived`);
    await Bun.sleep(50);
  }
  const drained = (performance.now() - started) / 1000 - wroteFor;
  clearInterval(watching);
  for (const id of ids) await appliance.call(`${hooks}/${id}`, { key, namespace: null, method: "DELETE" });

  const delays = [...good.values()].flat().toSorted((a, b) => a - b);
  return {
    name: everyEvent
      ? "webhooks: every event to all 20 endpoints"
      : "webhooks: each event to one of 20 endpoints",
    seconds: Math.round(wroteFor * 10) / 10,
    events_per_s: Math.round(total / wroteFor),
    deliveries,
    arrived_by_the_end: byTheEnd,
    drained_after_s: Math.round(drained * 10) / 10,
    p50_ms: quantile(delays, 0.5),
    p99_ms: quantile(delays, 0.99),
    api_before_mib: Math.round(before),
    api_peak_mib: Math.round(peak),
  };
}

function rss(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) / 1024;
}
